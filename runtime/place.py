"""Where a new bundle may be put: in a free place, or in that of a bundle and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from janus_edge.runtime.bundle import MANIFEST
from janus_edge.runtime.errors import OutputError
from janus_edge.runtime.exchange import put_in_place
from janus_edge.runtime.files import private_folder
from janus_edge.runtime.removal import foreign


def check_place(folder: Path, replace: bool) -> None:
    """Raise OutputError if a bundle may not be written there: only a bundle is ever replaced."""
    if not os.path.lexists(folder):
        return
    if not (replace and (folder / MANIFEST).is_file()):
        raise OutputError(f"{folder}: already there; name another folder, or replace a bundle")
    if (other := foreign(folder)) is not None:
        raise OutputError(
            f"{folder}: not replaced, as it holds {other}, which is no part of a bundle; "
            "move that away, or name another folder"
        )


@contextmanager
def replacing(folder: Path, replace: bool) -> Iterator[Path]:
    """Yield an empty private folder, which becomes ``folder`` if the block ends well."""
    place = folder.resolve()  # a link stays, and leads to the new bundle
    made = [each for each in place.parents if not each.exists()]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with private_folder(place.parent, target=place.name) as room:
            check_place(place, replace)
            (part := room / "new").mkdir()
            yield part
            check_place(place, replace)
            put_in_place(part, place)
    except OSError as error:  # a folder that cannot be written, or a full disk
        reason = error.strerror or str(error)
        raise OutputError(f"{folder}: {reason}; make room there, or choose another one") from error
    finally:
        with suppress(OSError):
            for each in made:  # rmdir removes only those that are empty
                each.rmdir()
