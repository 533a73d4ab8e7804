"""``janus-edge eval``: measure the quality of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from janus_edge.cli.options import Device, Json, Worlds, user_path


def evaluate(
    world: Annotated[Worlds, typer.Argument(help="World of the prompts and questions.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Bundle folder, or a name that `models` lists. Default: the shipped bundle that "
            "learned the world."
        ),
    ] = None,
    num_prompts: Annotated[
        int, typer.Option(help="Images to draw, over six categories.", min=6)
    ] = 600,
    num_questions: Annotated[
        int, typer.Option(help="Questions to ask, over all topics.", min=6)
    ] = 600,
    split: Annotated[str, typer.Option(help="Seed range: test or validation.")] = "test",
    guidance_scale: Annotated[float | None, typer.Option(help="Default: the bundle's.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Default: the bundle's.")] = None,
    steps: Annotated[int | None, typer.Option(help="JanusFlow. Default: the bundle's.")] = None,
    solver: Annotated[
        str | None, typer.Option(help="JanusFlow. Default: the bundle's.", metavar="NAME")
    ] = None,
    shift: Annotated[float | None, typer.Option(help="JanusFlow. Default: the bundle's.")] = None,
    guidance_start: Annotated[
        float | None, typer.Option(help="JanusFlow. Default: the bundle's.")
    ] = None,
    guidance_end: Annotated[
        float | None, typer.Option(help="JanusFlow. Default: the bundle's.")
    ] = None,
    device: Device = "auto",
    record: Annotated[
        Path | None,
        typer.Option(
            help="Append the result to this file, as a JSON line.", metavar="FILE", parser=user_path
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="Save images in a grid: PNG, JPEG or WebP.", metavar="FILE", parser=user_path
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Score a bundle in a world: images by their pixels, answers by their text."""
    from importlib import import_module

    from janus_edge.cli.json_output import print_json
    from janus_edge.evals.scoring import run
    from janus_edge.runtime.output import is_standard_output
    from janus_edge.runtime.stop import keeping

    written = [path for path in (record, sheet) if path is not None]
    taken = sum(map(is_standard_output, written))
    if taken + json > 1:
        raise typer.BadParameter("--json, --record - and --sheet - all want standard output")
    with keeping(lambda: "nothing was recorded"):
        result = run(
            import_module(f"janus_edge.evals.{world.value}").EXAM,
            model=model,
            num_prompts=num_prompts,
            num_questions=num_questions,
            device=device,
            split=split,
            settings={
                "guidance_scale": guidance_scale,
                "temperature": temperature,
                "num_steps": steps,
                "solver": solver,
                "shift": shift,
                "guidance_start": guidance_start,
                "guidance_end": guidance_end,
            },
            record=record,
            sheet=sheet,
            report=lambda line: None if json else typer.echo(line, err=taken > 0),
        )
    if json:
        print_json(result)
