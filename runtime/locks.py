"""Advisory locks on open files; a killed process's locks go with it."""

from __future__ import annotations

import sys

if sys.platform == "win32":

    def try_lock(descriptor: int) -> bool | None:
        """Return None: there are no such locks here."""
        return None

else:
    import fcntl

    def try_lock(descriptor: int) -> bool | None:
        """Lock an open file or folder for its descriptor, also against other threads.

        Returns True, False when somebody else has it, None where the file system has no locks.
        """
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return None
        return True
