"""Write files at paths that a user names: images, previews, records (docs/cli.md, "Written files").

A regular file appears whole or not at all, and a file that is replaced keeps its permissions. A
link stays and its target is replaced. A pipe or character device is written through. ``-`` is
standard output.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from janus_edge.runtime.errors import OutputError
from janus_edge.runtime.files import append_line, atomic_write, private_folder, sync, sync_folder

STANDARD_OUTPUT = Path("-")
_READER_S = 10.0  # the longest that a pipe waits for a program that reads it
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)  # no hard links here
_ADVICE = "choose another place"


def is_standard_output(path: Path) -> bool:
    """Return True for ``-``, and for any other path that leads to standard output."""
    if path == STANDARD_OUTPUT:
        return True
    try:
        return sys.stdout is not None and os.path.samestat(path.stat(), os.fstat(1))
    except (OSError, ValueError):
        return False


def is_stream(path: Path) -> bool:
    """Return True for what is written through: standard output, a pipe or a character device."""
    return is_standard_output(path) or _is_through(_mode(path))


def is_pipe(path: Path) -> bool:
    """Return True for a named pipe, whose reader sees its end after the first file."""
    return not is_standard_output(path) and stat.S_ISFIFO(_mode(path))


def check_writable(path: Path) -> None:
    """Raise OutputError, before any work is done, if a file cannot be written at a path."""
    if is_standard_output(path):
        if sys.stdout is None:
            raise OutputError("standard output is closed; name a file")
        return
    mode = _mode(path)
    if stat.S_ISDIR(mode):
        raise OutputError(f"{path}: is a folder; name a file in it")
    if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise OutputError(f"{path}: is a disk or socket; name a file")
    if mode and not os.access(path, os.W_OK):
        raise OutputError(f"{path}: cannot be written; {_ADVICE}")
    if not _is_through(mode):
        check_folder(_target(path).parent)


def check_folder(folder: Path) -> None:
    """Raise OutputError if no file can appear in a folder."""
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: cannot be written; {_ADVICE}")


def make_folder(path: Path) -> None:
    """Make a folder with its parents; keep one that exists.

    Raises:
        OutputError: The folder cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: {_reason(error)}; choose another folder") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: cannot be written; choose another folder")


def write_output(path: Path, content: bytes) -> None:
    """Write a whole file at a path that a user named.

    Raises:
        OutputError: The file cannot be written.
    """
    if path.is_dir() and not is_standard_output(path):  # a folder may have its name
        raise OutputError(f"{path}: is a folder; name a file in it")
    with _one_line(path):
        if is_standard_output(path):
            _write_standard(content)
        elif _is_through(_mode(path)):
            _write_through(path, content)
        else:
            _atomic_write(path, content)


def append_output(path: Path, line: bytes) -> None:
    """Add a line to a file, all of it or nothing; several programs may do so at once.

    Args:
        path: The file, or a stream.
        line: The line with its end.

    Raises:
        OutputError: The line cannot be written.
    """
    with _one_line(path):
        if is_stream(path):
            write_output(path, line)
        else:
            append_line(_target(path), line)


def write_new(path: Path, content: bytes, *, first: int | None = None) -> Path:
    """Write a file under the first free name of ``out.png``, ``out-1.png``, ``out-2.png`` ...

    Two programs never take the same name.

    Args:
        path: The file without a number.
        content: The whole file.
        first: The first number that is tried; None tries ``path`` itself first.

    Returns:
        The name that was free.

    Raises:
        OutputError: The file cannot be written.
    """
    if not path.name or path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file in it")
    with _one_line(path), private_folder(path.parent) as room:
        part = room / "new"
        part.write_bytes(content)
        sync(part)
        for number in itertools.count(first or 0):
            numbered = first is not None or number > 0
            name = path.with_stem(f"{path.stem}-{number}") if numbered else path
            if _takes(part, name):
                sync_folder(path.parent)
                return name
    raise AssertionError("unreachable")


def _takes(part: Path, name: Path) -> bool:
    """Give the file ``part`` a name; return False if something has that name."""
    try:
        try:
            os.link(part, name)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            part.replace(name)
    except FileExistsError:
        return False
    return True


def _mode(path: Path) -> int:
    """Return the mode of what a path leads to, 0 if there is nothing; raise OutputError."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: {_reason(error)}; {_ADVICE}") from None


def _is_through(mode: int) -> bool:
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _target(path: Path) -> Path:
    """Return where a link leads, through any number of links."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _write_standard(content: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _write_through(path: Path, content: bytes) -> None:
    """Write into a pipe or device, waiting until it takes everything."""
    descriptor = _open_through(path)
    with os.fdopen(descriptor, "wb") as file:
        os.set_blocking(descriptor, True)
        file.write(content)


def _open_through(path: Path) -> int:
    """Open for writing; wait at most ``_READER_S`` for a program to read a pipe."""
    end = time.monotonic() + _READER_S
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > end:
                raise OutputError(f"{path}: no program reads this pipe; start one first") from None
        time.sleep(0.02)


def _atomic_write(path: Path, content: bytes) -> None:
    target = _target(path)
    with atomic_write(target) as part:
        part.write_bytes(content)
        if target.exists():
            shutil.copymode(target, part)


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn the system's error into an OutputError."""
    try:
        yield
    except (OSError, ValueError) as error:
        name = "standard output" if is_standard_output(path) else str(path)
        raise OutputError(f"{name}: cannot be written: {_reason(error)}; {_ADVICE}") from None
