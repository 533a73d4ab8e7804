"""Advisory locks on open files. A process that is killed loses its locks."""

from __future__ import annotations

import sys

if sys.platform == "win32":

    def try_lock(descriptor: int) -> bool | None:
        """Return None: Windows has no such locks."""
        return None

else:
    import fcntl

    def try_lock(descriptor: int) -> bool | None:
        """Lock an open file or folder for its descriptor, also against other threads.

        Returns:
            True, False if somebody else has the lock, None if the file system has no locks.
        """
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return None
        return True
