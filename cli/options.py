"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Device = Annotated[
    str,
    typer.Option(
        "--device", help="auto, cpu, cuda, or another provider; cuda:1 is the second GPU."
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON document, for programs (docs/cli.md).")
]


def user_path(word: str) -> Path:
    """Return a path as the user means it: ``-`` is a standard stream, ``./-`` a file."""
    path = Path(word)
    return path.absolute() if path == Path("-") and word != "-" else path
