"""What one worker of pytest-xdist makes for all of them."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other worker works in a folder."""
    with (folder / ".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def shared_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """Return a folder of this name that all workers share."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    return folder


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first worker to ask for it makes.

    Args:
        factory: pytest's.
        name: Of the folder.
        make: Makes it, whole or not at all.
    """
    room = shared_folder(factory, f"shared-{name}")
    with locked(room):
        folder = room / name
        if not folder.exists():
            make(folder)
    return folder
