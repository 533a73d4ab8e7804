"""Notes that are kept between runs in the user's folder: small JSON files.

A note that is missing or damaged counts as empty. One that cannot be written is left out.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from janus_edge.runtime.files import atomic_write
from janus_edge.runtime.reading import read_regular

MOST_NOTE = 2**20  # bytes: a line for each of a bundle's files


def home_folder() -> Path:
    """Return the user's folder: JANUS_EDGE_HOME if set, else janus-edge in the user's cache."""
    if home := os.environ.get("JANUS_EDGE_HOME"):
        return Path(home)
    # Path.home() raises for a user without a home, who may still open a shipped bundle.
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(cache) / "janus-edge"


def read_note(note: Path) -> dict[str, Any]:
    """Return what a note holds; nothing if it is missing or damaged."""
    try:
        known = json.loads(read_regular(note, MOST_NOTE))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def write_note(note: Path, found: dict[str, Any]) -> None:
    """Write a note, or do nothing if the folder cannot be written."""
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(note) as part:
            part.write_text(json.dumps(found), encoding="utf-8")
    except OSError:
        return
