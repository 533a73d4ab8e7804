"""``janus-edge distill``: give a bundle sharp previews."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from janus_edge.cli.standard_input import prompts_of


def distill(
    bundle: Annotated[str, typer.Argument(help="Name of a bundle, or its folder.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder to write; default: the bundle is replaced."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="File with a prompt per line to draw; default: shapes, things and photographs."
        ),
    ] = None,
    images: Annotated[int, typer.Option(help="Images to draw and to learn from.")] = 1024,
    steps: Annotated[int, typer.Option(help="Steps of training, each of 16 images.")] = 4000,
) -> None:
    """Give a bundle sharp previews, learned from images that it draws itself.

    If it is stopped, the same command goes on where it was.
    """
    from janus_edge.distill.preview import distill_preview
    from janus_edge.runtime.stop import keeping

    with keeping(lambda: "the bundle is as it was; the same command goes on where this one was"):
        folder = distill_preview(
            bundle,
            prompts=None if prompts is None else prompts_of(prompts),
            num_images=images,
            num_steps=steps,
            output=output,
            report=typer.echo,
        )
    typer.echo(folder)
