"""``janus-edge generate``: a prompt to PNG files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from janus_edge.cli.options import Device

if TYPE_CHECKING:
    from janus_edge.runtime.events import Image
    from janus_edge.runtime.requests import ImageRequest
    from janus_edge.runtime.session import Session


def generate(
    prompts: Annotated[
        list[str],
        typer.Argument(help="What to draw; several are drawn together.", metavar="prompt..."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG file.")] = Path("out.png"),
    num_images: Annotated[
        int, typer.Option("-n", "--num-images", help="Pictures a prompt; the files are numbered.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="The i-th picture has seed + i.")] = 0,
    guidance_scale: Annotated[
        float | None, typer.Option(help="Pull towards the prompt; 1 is none.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 takes the likeliest code.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep the k likeliest codes; 0 is all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep this much probability.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of a flow: steps a picture.")] = None,
    solver: Annotated[
        str | None, typer.Option(help="Of a flow: euler, ab2 or heun.", metavar="NAME")
    ] = None,
    shift: Annotated[
        float | None, typer.Option(help="Of a flow: above 1 takes more steps near noise.")
    ] = None,
    guidance_start: Annotated[
        float | None, typer.Option(help="Of a flow: t in 0..1 from which guidance is on.")
    ] = None,
    guidance_end: Annotated[
        float | None, typer.Option(help="Of a flow: t in 0..1 from which it is off again.")
    ] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="The papers' settings, not the bundle's.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Bundle folder, or a name that `models` lists.")
    ] = None,
    previews: Annotated[
        Path | None, typer.Option(help="Folder for a preview a row of codes, or a step.")
    ] = None,
    threads: Annotated[int, typer.Option(help="0 lets the engine choose.", min=0)] = 0,
    device: Device = "auto",
) -> None:
    """Draw a picture."""
    from janus_edge.cli.terminal import drawing_bar
    from janus_edge.runtime.bundle import open_bundle
    from janus_edge.runtime.events import Finished, Image, Preview, Progress
    from janus_edge.runtime.image import check_writable, make_folder, save_png
    from janus_edge.runtime.requests import ImageRequest
    from janus_edge.runtime.session import Session

    request = ImageRequest(
        prompt=tuple(prompts),
        num_images=num_images,
        seed=seed,
        guidance_scale=guidance_scale,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        num_steps=steps,
        solver=solver,
        shift=shift,
        guidance_start=guidance_start,
        guidance_end=guidance_end,
        reference=reference,
        previews=previews is not None,
    )
    check_writable(output)
    session = Session(open_bundle(model), num_threads=threads, device=device)
    events = session.generate_image(request)
    if previews is not None:
        make_folder(previews)
    lines, took = [], ""
    with drawing_bar("drawing") as advance:
        for event in events:
            match event:
                case Progress(done=done, total=total, unit=unit):
                    advance(done, total, unit)
                case Preview(index=index, pixels=pixels, done=done) if previews:
                    save_png(pixels, previews / f"{index:03}-{done:04}.png", {})
                case Image(pixels=pixels):
                    path = _numbered(output, event, len(prompts) * num_images)
                    save_png(pixels, path, _texts(session, request, event))
                    lines.append(str(path))
                case Finished(timings_ms=timings):
                    took = ", ".join(f"{name} {ms:.0f}" for name, ms in timings.items())
    for line in lines:  # after the bar, which would be written over
        typer.echo(line)
    typer.echo(f"ms: {took}", err=True)


def _numbered(output: Path, event: Image, num_images: int) -> Path:
    if num_images == 1:
        return output
    return output.with_stem(f"{output.stem}-{event.index + 1}")


def _texts(session: Session, request: ImageRequest, event: Image) -> dict[str, str]:
    """What it takes to draw the picture again, for the PNG's text chunks."""
    settings, manifest = session.image_settings(request), session.bundle.manifest
    return {
        "Software": manifest.created_by,
        "prompt": request.prompts[event.index // request.num_images],
        "seed": str(event.seed),
        **{name: str(value) for name, value in dataclasses.asdict(settings).items()},
        "model": manifest.name,
        "model_sha256": session.bundle.sha256,
    }
