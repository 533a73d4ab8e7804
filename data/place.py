"""The folder of shards that a build writes: whole or not at all, and only ours is replaced."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from janus_edge.runtime.errors import OutputError
from janus_edge.runtime.exchange import put_in_place
from janus_edge.runtime.files import private_folder

MARKER = "shards.json"  # says that a folder is ours, and which shards are
SKIPPED = "skipped.jsonl"


@contextmanager
def placed(folder: Path, replace: bool) -> Iterator[Path]:
    """Yield an empty private folder, which becomes ``folder`` if the block ends well."""
    made: list[Path] = []
    try:
        place = Path(os.path.realpath(folder))  # a link stays, and leads to the new shards
        made = [each for each in place.parents if not each.exists()]
        place.parent.mkdir(parents=True, exist_ok=True)
        with private_folder(place.parent, target=place.name) as room:
            _check_place(folder, place, replace)
            (part := room / "new").mkdir()
            yield part
            _check_place(folder, place, replace)
            put_in_place(part, place)
    except OSError as error:  # a folder that cannot be written, or a full disk
        reason = error.strerror or str(error)
        raise OutputError(f"{folder}: {reason}; make room there, or choose another one") from error
    finally:
        with suppress(OSError):
            for each in made:  # rmdir removes only those that are empty
                each.rmdir()


def _check_place(folder: Path, place: Path, replace: bool) -> None:
    """Raise OutputError if shards may not be written there: only shards of ours are replaced."""
    if not os.path.lexists(place) or (place.is_dir() and not any(place.iterdir())):
        return
    ours = _ours(place)
    if not ours:
        raise OutputError(f"{folder}: already there, and not of janus-edge; name another folder")
    if not replace:
        raise OutputError(f"{folder}: already there; name another folder, or add --replace")
    others = sorted(each.name for each in place.iterdir() if each.name not in ours)
    if others:
        raise OutputError(
            f"{folder}: not replaced, as it holds {others[0]}, which no build made; move that away"
        )


def _ours(place: Path) -> set[str]:
    """Return the names in a folder that a build made, none if it is of somebody else."""
    try:
        found = json.loads((place / MARKER).read_text(encoding="utf-8"))
        is_ours = found["by"] == "janus-edge"
        return {MARKER, SKIPPED, *found["shards"]} if is_ours else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()
