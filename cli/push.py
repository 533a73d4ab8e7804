"""``janus-edge push``: a bundle to the Hugging Face hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from janus_edge.cli.options import user_path


def push(
    bundle: Annotated[str, typer.Argument(help="Bundle folder, or a name that `models` lists.")],
    repo: Annotated[str, typer.Argument(help="Repository on the hub: owner/name.")],
    base_model: Annotated[
        str | None,
        typer.Option(help="What it was made from, owner/name; default: what the bundle says."),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(help="Licence of the weights, as the hub names it; default: the base's."),
    ] = None,
    license_file: Annotated[
        Path | None,
        typer.Option(
            help="The licence's text, uploaded as LICENSE.", metavar="FILE", parser=user_path
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="Records of `eval --record`; the card shows the bundle's.",
            metavar="FILE",
            parser=user_path,
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the bundle that the repository holds.")
    ] = False,
) -> None:
    """Push a bundle to the Hugging Face hub, with a model card.

    Makes the repository if there is none, and uploads all files in one commit. Reads HF_TOKEN and
    HF_ENDPOINT. Others pull it by `janus-edge pull`, without PyTorch.
    """
    from huggingface_hub.utils import disable_progress_bars

    from janus_edge.hub.push import push as push_bundle
    from janus_edge.runtime.stop import keeping

    if not sys.stderr.isatty():
        disable_progress_bars()
    with keeping(lambda: "the repository is as it was"):
        push_bundle(
            bundle,
            repo,
            base_model=base_model,
            license=license,
            license_file=license_file,
            scores=scores,
            is_private=private,
            replace=replace,
            report=typer.echo,
        )
    typer.echo(f"pull it: janus-edge pull {repo}")
