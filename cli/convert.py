"""``janus-edge convert``: write a checkpoint as transformers reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Folder with config.json and weights.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write; it must be new or empty.")],
) -> None:
    """Write a Janus checkpoint in the format of Hugging Face transformers, in fp16."""
    import torch

    from janus_edge.model.to_transformers import save_for_transformers
    from janus_edge.model.weights import load_checkpoint
    from janus_edge.runtime.errors import OutputError
    from janus_edge.runtime.stop import keeping

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder}: already there; name another folder")
    with keeping(lambda: f"{folder} may lack files; remove it"):
        save_for_transformers(load_checkpoint(checkpoint), folder, torch.float16)
    typer.echo(folder)
