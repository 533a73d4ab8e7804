"""The folder of shards that a build writes: whole or not at all, and only ours is replaced."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager
from pathlib import Path

from janus_edge.runtime import place
from janus_edge.runtime.errors import OutputError

MARKER = "shards.json"  # says that a folder is ours, and which shards are
SKIPPED = "skipped.jsonl"


def placed(folder: Path, replace: bool) -> AbstractContextManager[Path]:
    """Return what yields an empty private folder, which becomes ``folder`` at its end."""
    return place.placed(folder, lambda where: _check_place(folder, where, replace))


def check_place(folder: Path, replace: bool) -> None:
    """Raise OutputError if shards may not be written to a folder."""
    _check_place(folder, Path(os.path.realpath(folder)), replace)


def _check_place(folder: Path, where: Path, replace: bool) -> None:
    """Raise OutputError if shards may not be written there: only shards of ours are replaced."""
    if not os.path.lexists(where) or (where.is_dir() and not any(where.iterdir())):
        return
    ours = _ours(where)
    if not ours:
        raise OutputError(f"{folder}: already there, and not of janus-edge; name another folder")
    if not replace:
        raise OutputError(f"{folder}: already there; name another folder, or add --replace")
    others = sorted(each.name for each in where.iterdir() if each.name not in ours)
    if others:
        raise OutputError(
            f"{folder}: not replaced, as it holds {others[0]}, which no build made; move that away"
        )


def _ours(where: Path) -> set[str]:
    """Return the names in a folder that a build made, none if it is of somebody else."""
    try:
        found = json.loads((where / MARKER).read_text(encoding="utf-8"))
        is_ours = found["by"] == "janus-edge"
        return {MARKER, SKIPPED, *found["shards"]} if is_ours else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()
