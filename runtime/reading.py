"""Read files that others may have made: regular files alone, up to a size.

Opening a FIFO waits for a writer, and a device may never end. Neither belongs in a bundle.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)  # it may become a FIFO between stat and open
    | getattr(os, "O_BINARY", 0)
)


def open_regular(path: Path, most: int) -> int:
    """Return a descriptor of a regular file, which the caller closes.

    Args:
        path: The file.
        most: The largest size that is accepted, bytes.

    Raises:
        OSError: The path leads to anything else. Its ``strerror`` says what is wrong.
    """
    _check(path, path.stat(), most)  # checked before: opening a device may have effects
    descriptor = os.open(path, _FLAGS)
    try:
        _check(path, os.fstat(descriptor), most)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: Path, most: int) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file.
        most: The largest size that is accepted, bytes.

    Raises:
        OSError: The path leads to anything else, or cannot be read.
    """
    with os.fdopen(open_regular(path, most), "rb") as file:
        content = file.read(os.fstat(file.fileno()).st_size + 1)  # it may have grown since
    if len(content) > most:
        raise _too_large(path, most)
    return content


def is_regular(found: os.stat_result) -> bool:
    """Return True for a regular file, the only kind that is read."""
    return stat.S_ISREG(found.st_mode)


def _check(path: Path, found: os.stat_result, most: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not is_regular(found):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    if found.st_size > most:
        raise _too_large(path, most)


def _too_large(path: Path, most: int) -> OSError:
    return OSError(errno.EFBIG, f"Larger than {most} bytes, which is the most", str(path))
