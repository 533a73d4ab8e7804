"""Put a new folder in its place, whole or not at all; a bundle replaces a bundle, nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from janus_edge.runtime.bundle import MANIFEST
from janus_edge.runtime.errors import OutputError
from janus_edge.runtime.exchange import put_in_place
from janus_edge.runtime.files import forget, private_folder
from janus_edge.runtime.removal import foreign


def check_place(folder: Path, replace: bool) -> None:
    """Raise OutputError if a bundle may not be written there: only a bundle is ever replaced."""
    if re.search(r"[\x00-\x1f\x7f-\x9f]", folder.name):
        raise OutputError(f"{folder}: a control character is in its name; name another folder")
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
    """Yield an empty private folder, which becomes the bundle's at its end."""
    with placed(folder, partial(check_place, replace=replace)) as part:
        yield part
    forget(folder)


@contextmanager
def placed(folder: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """Yield an empty private folder, which becomes ``folder`` if the block ends well.

    Args:
        folder: The place.
        check: Raises OutputError if nothing may be put there; called before and after the block.

    Raises:
        OutputError: The folder cannot be written.
    """
    made: list[Path] = []
    try:
        place = Path(os.path.realpath(folder))  # a link stays, and leads to what is new
        made = [each for each in place.parents if not each.exists()]
        place.parent.mkdir(parents=True, exist_ok=True)
        with private_folder(place.parent, target=place.name) as room:
            check(place)
            (part := room / "new").mkdir()
            yield part
            check(place)
            put_in_place(part, place)
    except OSError as error:  # a folder that cannot be written, or a full disk
        reason = error.strerror or str(error)
        raise OutputError(f"{folder}: {reason}; make room there, or choose another one") from error
    finally:
        with suppress(OSError):
            for each in made:  # rmdir removes only those that are empty
                each.rmdir()
