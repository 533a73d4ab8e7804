"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
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


class Worlds(StrEnum):
    """Worlds that this package draws and scores bundles in."""

    shapes = "shapes"
    things = "things"


def _number_or_auto(word: str) -> int:
    """Return a number; 0 for ``auto``."""
    if word == "auto":
        return 0
    digits = word.lstrip("0")
    if word.isascii() and digits.isdecimal():
        return int(digits) if len(digits) < 10 else 10**9  # which is refused as too large
    raise typer.BadParameter("it is neither auto nor a number from 1 on")


Parallel = Annotated[
    int,
    typer.Option(
        "--parallel",
        help="Positions that a pass computes; auto: the fastest number. Results are the same (with "
        "ONNX Runtime but for logits that are almost equal).",
        metavar="N",
        parser=_number_or_auto,
    ),
]


def seed_or_random(word: str) -> int:
    """Return a seed; another one each time for ``random``."""
    if word == "random":
        from janus_edge.runtime.requests import random_seed

        return random_seed()
    try:
        return int(word)
    except ValueError:
        raise typer.BadParameter("it is neither a whole number nor random") from None


def user_path(word: str) -> Path:
    """Return a path as the user means it: ``-`` is a standard stream, ``./-`` a file."""
    path = Path(word)
    return path.absolute() if path == Path("-") and word != "-" else path
