"""``janus-edge generate``: draw prompts to image files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from janus_edge.cli.options import Device, Json, Parallel, seed_or_random, user_path


def _format_known(path: Path | None) -> Path | None:
    """Refuse a name whose image format is not known, before any work."""
    from janus_edge.runtime.errors import OptionError
    from janus_edge.runtime.image_file import format_of

    try:
        if path is not None:
            format_of(path)
    except OptionError as error:
        raise typer.BadParameter(str(error)) from None
    return path


def generate(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            help="What to draw; several are drawn together; - is standard input, one per line.",
            metavar="prompt...",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="PNG, JPEG or WebP file; {n} and {seed} in its name are filled in; - is standard "
            "output. Default: out.png, with a number added if that exists.",
            metavar="FILE",
            parser=user_path,
            callback=_format_known,
        ),
    ] = None,
    num_images: Annotated[
        int, typer.Option("-n", "--num-images", help="Images per prompt; the files are numbered.")
    ] = 1,
    seed: Annotated[
        int | None,
        typer.Option(
            help="The i-th image has seed + i; random takes another one each time. Default: 0.",
            metavar="N",
            parser=seed_or_random,
        ),
    ] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            help="File with a prompt a line; .jsonl: an object a line, with settings of its own.",
            metavar="FILE",
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            help="Draw as this image was drawn; other options override its.", metavar="IMAGE"
        ),
    ] = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="Write all images side by side to one file.")
    ] = False,
    guidance_scale: Annotated[
        float | None, typer.Option(help="Strength of guidance towards the prompt; 1 is none.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 takes the likeliest code.")] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Keep the k likeliest codes; 0 keeps all.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep this much probability.")] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast", help="Janus: approximate, in less time: guides the first 0.85 of the codes."
        ),
    ] = False,
    window: Annotated[
        int | None,
        typer.Option(
            help="Janus: approximate: a row begins when the one above has so many codes; 0: exact."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="JanusFlow: steps per image.")] = None,
    solver: Annotated[
        str | None, typer.Option(help="JanusFlow: euler, ab2 or heun.", metavar="NAME")
    ] = None,
    shift: Annotated[
        float | None, typer.Option(help="JanusFlow: above 1 takes more steps near noise.")
    ] = None,
    guidance_start: Annotated[
        float | None, typer.Option(help="JanusFlow: t in 0..1 from which guidance is on.")
    ] = None,
    guidance_end: Annotated[
        float | None,
        typer.Option(
            help="JanusFlow: t in 0..1 from which it is off again. Janus: the part of the codes "
            "that is guided; below 1 is approximate."
        ),
    ] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="The papers' settings, not the bundle's.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Bundle folder, or a name that `models` lists.")
    ] = None,
    parallel: Parallel = "auto",  # type: ignore[assignment]
    previews: Annotated[
        Path | None, typer.Option(help="Folder for previews, one per row of codes or step.")
    ] = None,
    show: Annotated[
        bool | None,
        typer.Option(
            "--show/--no-show",
            help="Show the image in the terminal while it is drawn. Default: where the terminal "
            "shows pixels; --show also as blocks of colour.",
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(help="Threads of the backend; 0 lets it choose.", min=0)
    ] = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Draw an image."""
    from janus_edge.cli.asked import requests_of
    from janus_edge.cli.drawing import Drawing, draw
    from janus_edge.cli.inline_images import kind_shown
    from janus_edge.runtime.requests import ImageRequest

    kind = "" if json else kind_shown(show)
    given = {
        "num_images": num_images,
        "seed": seed,
        "guidance_scale": guidance_scale,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "num_steps": steps,
        "solver": solver,
        "shift": shift,
        "guidance_start": guidance_start,
        "guidance_end": guidance_end,
        "reference": reference or None,
        "fast": fast or None,
        "window": window,
        "parallel": parallel or None,
        "previews": previews is not None or bool(kind),
    }
    found, named = requests_of(prompts, prompts_file, like, given)
    drawing = Drawing(
        requests=tuple(ImageRequest(**each) for each in found),
        model=named if model is None else model,
        output=output,
        previews=previews,
        threads=threads,
        device=device,
        json=json,
        shown=kind,
        is_grid=grid,
    )
    draw(drawing)
