"""Put a finished folder in the place of another in one step (docs/files.md)."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from janus_edge.runtime.files import OLD, sync, sync_folder

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)  # kernel or disk cannot do it


def put_in_place(new: Path, path: Path) -> None:
    """Move a finished folder to its place, and what was there into the private folder around it.

    Linux exchanges the two at once. Elsewhere, and on file systems that cannot, two renames do it.
    If the program is killed between them, the next writer beside ``path`` puts the old folder back.

    Args:
        new: The folder, in a private folder of ``path``'s parent (``files.private_folder``, with
            ``path`` as its target).
        path: Its place.

    Raises:
        OSError: The folders cannot be moved.
    """
    sync(new)
    if not path.exists():
        new.rename(path)
    elif not _exchange(new, path):
        path.rename(new.with_name(OLD))
        new.rename(path)
    sync_folder(path.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders' names; return False if the system cannot. Raise OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    paths = [os.fsencode(path) for path in (one, other)]
    if libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    if (reason := ctypes.get_errno()) in _UNKNOWN:
        return False
    raise OSError(reason, os.strerror(reason), str(other))
