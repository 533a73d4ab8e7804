"""Write files and folders so that they appear whole or not at all (docs/files.md).

A write first fills a private folder beside its target. The folder is made for this one write and
is locked as long as its writer lives. The file gets its name when all of it is on the disk. What
killed writers leave is known by the marker that they wrote, and the next write beside it removes
it. Nothing else is ever removed.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from janus_edge.runtime.errors import OutputError
from janus_edge.runtime.locks import try_lock

PREFIX = ".janus-edge-part-"
MARKER = "owner.json"
_BEGINNING = b'{"by": "janus-edge", '
OLD = "old"  # in a private folder: what stood at the target before it was replaced by two renames
_LARGE = 2**26  # bytes
_NOT_SYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # file systems without fsync
_SETTLED_S = 2.0  # the longest wait for a lock that others hold for milliseconds


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a private path to write a file, link or folder to; it becomes ``path`` at the end.

    It is on the disk before it replaces what is at ``path``: a crash leaves the old or the new. If
    the block fails, the old stays.

    Raises:
        OSError: The file cannot be written.
    """
    with private_folder(path.parent) as room:
        part = room / f"new{path.suffix[:16]}"
        yield part
        sync(part)
        part.replace(path)
        sync_folder(path.parent)


@contextmanager
def private_folder(parent: Path, *, target: str | None = None) -> Iterator[Path]:
    """Make a folder in ``parent`` for one writer; remove it with all it holds at the end.

    What killed writers left is removed first.

    Args:
        parent: Where to make it.
        target: A name in ``parent`` that nobody else may write meanwhile.

    Yields:
        The folder.

    Raises:
        OutputError: Another writer has the target.
        OSError: The folder cannot be made.
    """
    with _settled(parent):
        _sweep(parent, target)
        room, lock = _claim(parent, target)
    try:
        yield room
    finally:
        with suppress(OSError):
            _remove(room)
        os.close(lock)


def append_line(path: Path, line: bytes) -> None:
    """Append a line to a file, all of it or nothing, and wait until it is on the disk.

    Half a line that a killed writer left stays a line of its own.

    Args:
        path: The file, made if it is missing.
        line: The line with its end.

    Raises:
        OSError: The line cannot be written.
    """
    is_new = not path.exists()
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        _wait_for(file)
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            line = b"\n" + line
        try:
            if os.write(file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            _fsync(file)
        except OSError:
            os.ftruncate(file, size)
            raise
    finally:
        os.close(file)
    if is_new:
        sync_folder(path.parent)


def link_or_copy(source: Path, path: Path) -> None:
    """Give a file a second name, or copy it where that is not possible. Raises OSError."""
    try:
        os.link(source.resolve(), path)
    except OSError:
        shutil.copyfile(source, path)


def forget(folder: Path) -> None:
    """Drop a new folder's large files from the page cache, if the system can.

    Written pages are small ones. Those that the next reader brings in are large, which the CPU
    kernels read faster (docs/cpu-kernels.md, "Pages").
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.iterdir():
        with suppress(OSError):
            if path.stat().st_size >= _LARGE:
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sync(path: Path) -> None:
    """Wait until a file, or a folder with all it holds, is on the disk. Raises OSError."""
    if path.is_symlink():
        return
    if path.is_dir():
        for each in path.iterdir():
            sync(each)
        sync_folder(path)
        return
    with path.open("rb") as file:
        _fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk. Raises OSError."""
    folder = os.open(path, os.O_RDONLY)
    try:
        _fsync(folder)
    finally:
        os.close(folder)


def _fsync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SYNCED:
            raise


@contextmanager
def _settled(parent: Path) -> Iterator[None]:
    """Keep others from looking for leftovers while a private folder is not yet locked.

    Locks the parent itself, for some milliseconds. If that is not possible (the folder cannot be
    read, or a script has locked it), the private folder is made without the lock.
    """
    with ExitStack() as stack:
        with suppress(PermissionError):
            folder = os.open(parent, os.O_RDONLY)
            stack.callback(os.close, folder)
            _wait_for(folder)
        yield


def _wait_for(descriptor: int) -> None:
    """Lock an open file or folder; go on without the lock after ``_SETTLED_S``."""
    end = time.monotonic() + _SETTLED_S
    while try_lock(descriptor) is False and time.monotonic() < end:
        time.sleep(0.01)


def _claim(parent: Path, target: str | None) -> tuple[Path, int]:
    """Make a private folder with its marker; return it and the marker's locked descriptor."""
    room = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    try:
        lock = os.open(room / MARKER, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            try_lock(lock)
            words = {"by": "janus-edge", "process": os.getpid(), "target": target}
            os.write(lock, json.dumps(words).encode())
        except BaseException:
            os.close(lock)
            raise
    except BaseException:
        with suppress(OSError):
            _remove(room)
        raise
    return room, lock


def _sweep(parent: Path, target: str | None) -> None:
    """Remove what killed writers left; raise OutputError if a living writer has the target."""
    with suppress(PermissionError):
        for room in [path for path in parent.iterdir() if path.name.startswith(PREFIX)]:
            if room.is_symlink():
                continue
            if (owner := _remove_left(parent, room)) and target and owner["target"] == target:
                raise OutputError(
                    f"{parent / target}: process {owner['process']} is writing it; wait for it, "
                    "or choose another name"
                )


def _remove_left(parent: Path, room: Path) -> dict[str, object] | None:
    """Remove a private folder whose writer is gone; return what a living writer's marker says."""
    with suppress(OSError):
        room.rmdir()  # killed before it had a marker, or after
        return None
    try:
        marker = os.open(room / MARKER, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # not a private folder of janus-edge
        return None
    try:
        with suppress(OSError):
            is_ours, owner = _owner(room, marker)
            is_locked = try_lock(marker) if is_ours else None
            if is_locked is False:
                return owner
            if is_locked:
                _restore(parent, room, owner)
                _remove(room)
    finally:
        os.close(marker)
    return None


def _owner(room: Path, marker: int) -> tuple[bool, dict[str, object]]:
    """Return whether a marker is from janus-edge, and what it says.

    A marker that is alone in its folder may be half written.
    """
    raw = os.read(marker, 2**16)
    with suppress(ValueError):
        owner = json.loads(raw)
        if isinstance(owner, dict) and {"by", "process", "target"} <= owner.keys():
            return owner["by"] == "janus-edge", owner
    is_begun = _BEGINNING.startswith(raw) or raw.startswith(_BEGINNING)
    is_alone = [path.name for path in room.iterdir()] == [MARKER]
    return is_begun and is_alone, {"process": None, "target": None}


def _restore(parent: Path, room: Path, owner: dict[str, object]) -> None:
    """Put back what a killed writer had moved aside (``exchange.put_in_place``)."""
    if isinstance(owner["target"], str) and (room / OLD).exists():
        place = parent / owner["target"]
        if place.parent == parent and not place.exists():
            (room / OLD).rename(place)
            sync_folder(parent)


def _remove(room: Path) -> None:
    """Remove a private folder, its marker last: a removal that is killed can be continued."""
    for each in list(room.iterdir()):
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        elif each.name != MARKER:
            each.unlink()
    (room / MARKER).unlink(missing_ok=True)
    room.rmdir()
