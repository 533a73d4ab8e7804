"""Remember which files matched their hashes, so that gigabytes are not hashed at every start.

A file is hashed when it is first opened, and again when its size, times or inode have changed. The
notes lie in the user's folder, one small file per bundle. If a note is damaged or cannot be
written, all files are hashed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from janus_edge.runtime.notes import home_folder, read_note, write_note
from janus_edge.runtime.reading import is_regular

Stamp = list[int]
Check = Callable[[Path, str], None]


def check_changed(
    folder: Path,
    files: list[tuple[str, str]],
    check: Check,
    *,
    check_all: bool = False,
) -> dict[str, Stamp]:
    """Call ``check`` for each file, except those that passed before and have not changed since.

    Args:
        folder: The bundle's folder.
        files: Name and SHA-256 of each file.
        check: Takes a file's path and hash; raises if the file is another.
        check_all: Check unchanged files, too.

    Returns:
        Each file's stamp, by name.

    Raises:
        Exception: What ``check`` raises.
    """
    note = _note(folder)
    known = {} if check_all else read_note(note)
    found: dict[str, list[str | Stamp]] = {}
    stamps: dict[str, Stamp] = {}
    for name, expected in files:
        stamp = stamp_of(folder / name)  # taken before hashing: a change while it is read shows
        if stamp is None or known.get(name) != [expected, stamp]:
            check(folder / name, expected)
        if stamp is not None:
            found[name], stamps[name] = [expected, stamp], stamp
    if found != known:
        write_note(note, found)
    return stamps


def check_each(folder: Path, files: list[tuple[str, str]], check: Check) -> dict[str, Stamp]:
    """Call ``check`` for each file, as ``check_changed`` does, and note nothing."""
    stamps = {name: stamp_of(folder / name) for name, _ in files}
    for name, expected in files:
        check(folder / name, expected)
    return {name: stamp for name, stamp in stamps.items() if stamp is not None}


def stamp_of(path: Path) -> Stamp | None:
    """Return what changes when a file does, None if there is no regular file.

    It contains the time of the inode's last change, which cannot be set back by hand.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    if not is_regular(found):
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _note(folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    return home_folder() / "checked" / f"{name}.json"
