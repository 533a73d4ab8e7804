"""The folder of a finished checkpoint: it appears complete or not at all; others' files stay."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from janus_edge.runtime.exchange import put_in_place
from janus_edge.runtime.files import PREFIX, private_folder

CHECKPOINT = "checkpoint"  # the folder's name in that of the run


@contextmanager
def finished_folder(run_dir: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; in the end it takes the place of ``RUN_DIR/checkpoint``.

    Files that are there and not in the new folder are copied to it.

    Args:
        run_dir: Folder of the run.

    Raises:
        OSError: The folder cannot be written; what was there stays.
    """
    folder = run_dir / CHECKPOINT
    with private_folder(run_dir, target=CHECKPOINT) as room:
        part = room / "new"
        part.mkdir()
        yield part
        for left in part.glob(f"{PREFIX}*"):  # whose removal failed
            shutil.rmtree(left)
        for each in folder.iterdir() if folder.is_dir() else ():
            if not (part / each.name).exists() and not each.name.startswith(PREFIX):
                copy = shutil.copytree if each.is_dir() else shutil.copy2
                copy(each, part / each.name)
        put_in_place(part, folder)
