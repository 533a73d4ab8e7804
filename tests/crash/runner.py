"""Run a writer again and again, stopped at each of its file operations; print what went wrong.

    echo '["kill", "image", "/tmp/new", 1]' | LD_PRELOAD=shim.so python -m tests.crash.runner

Words: how, a writer, a folder to make, and a step: only every so many-th operation is tried. Each
run is a fork of this warm process. kill: a run is killed at its n-th operation, then another
goes to its end. look: one run, which waits at each operation until a copy of the folder, which is
what a kill would leave, has been looked at. fail: the n-th operation fails.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from janus_edge.runtime.errors import JanusEdgeError
from janus_edge.runtime.files import PREFIX, private_folder
from tests.crash.writers import WRITERS, Writer

KILL, PAUSE, COUNT = 0, -1, -2
ERRORS = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.ENOMEM)
shim = ctypes.CDLL(None)


def names(folder: Path) -> set[str]:
    """Everything below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def litter(folder: Path) -> list[str]:
    """What is left of private folders."""
    return [name for name in names(folder) if PREFIX in name]


def run(
    writer: Writer,
    folder: Path,
    *,
    nth: int = 0,
    action: int = COUNT,
    reads: bool = False,
    pause: Callable[[], object] | None = None,
) -> tuple[int, int, str]:
    """Run a writer in a fork: its exit status, number of operations, and error ("" if none)."""
    (said, says), (asks, ask), (answer, answers) = os.pipe(), os.pipe(), os.pipe()
    if (child := os.fork()) == 0:
        words, fd = "", (ask, answer) if pause else (-1, -1)
        try:
            shim.shim_arm(os.fsencode(folder), ctypes.c_long(nth), action, int(reads), *fd)
            writer.run(folder)
        except JanusEdgeError as error:
            words = f"error: {error}"
        except BaseException:
            words = traceback.format_exc()
        count = shim.shim_count()
        shim.shim_arm(b"", ctypes.c_long(0), COUNT, 0, -1, -1)
        os.write(says, json.dumps([count, words]).encode())
        os._exit(0)
    for end in (says, ask, answer):
        os.close(end)
    while pause and os.read(asks, 1):
        pause()
        os.write(answers, b"x")
    with os.fdopen(said, "rb") as file:
        text = file.read()
    for end in (asks, answers):
        os.close(end)
    _, status = os.waitpid(child, 0)
    count, words = json.loads(text) if text else (0, "")
    return status, count, words


class Trial:
    """A writer, the folder it works in, and a copy of what it finds there."""

    def __init__(self, name: str, base: Path) -> None:
        self.name, self.writer = name, WRITERS[name]
        self.folder, self.before = base / "folder", base / "before"
        self.before.mkdir(parents=True)
        self.writer.prepare(self.before)
        self.wrong: list[str] = []
        self.states: set[str] = set()
        self.swept: set[str] = set()

    def reset(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.before, self.folder, symlinks=True)

    def clean(self, reads: bool = False) -> int:
        """An undisturbed run; returns its number of operations."""
        self.reset()
        status, count, words = run(self.writer, self.folder, reads=reads)
        assert (status, words, self.writer.check(self.folder)) == (0, "", "new"), words
        self.expected = names(self.folder)
        return count

    def look(self, folder: Path, where: str, states: set[str] | None = None) -> None:
        """Note down what is wrong with a folder that was left."""
        try:
            (self.states if states is None else states).add(self.writer.check(folder))
        except Exception:
            self.wrong.append(f"{where}: {traceback.format_exc()[-900:]}")

    def recover(self, where: str) -> None:
        """The next run goes to its end and leaves no litter."""
        status, _, words = run(self.writer, self.folder)
        if (status, words) != (0, ""):
            self.wrong.append(f"{where}: the next run: {status} {words[-900:]}")
        if self.name in ("notes", "draw"):  # nothing is left to note: the next write is another's
            with private_folder(self.folder / "checked"):
                pass
        self.look(self.folder, f"{where}, then run again")
        ended = self.writer.check(self.folder)
        if ended != "new" or (names(self.folder) != self.expected and self.name != "states"):
            found = names(self.folder) ^ self.expected
            self.wrong.append(f"{where}: after the next run {ended}, {sorted(found)}")
        if left := litter(self.folder):
            self.wrong.append(f"{where}: left {left}")


def kill(trial: Trial, step: int) -> int:
    count = trial.clean()
    for nth in range(1, count + 1, step):
        trial.reset()
        status, *_ = run(trial.writer, trial.folder, nth=nth, action=KILL)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            trial.wrong.append(f"{nth}: not killed: {status}")
        trial.look(trial.folder, f"killed at {nth} of {count}")
        trial.recover(f"killed at {nth} of {count}")
    return count


def look(trial: Trial, step: int) -> int:
    trial.clean()
    trial.reset()
    copy, number = trial.folder.with_name("copy"), itertools.count(1)

    def pause() -> None:
        where = f"at operation {(nth := next(number))}"
        if nth % step:
            return
        shutil.copytree(trial.folder, copy, symlinks=True)
        trial.look(copy, where)
        with private_folder(copy):  # what the next writer does first
            pass
        trial.look(copy, f"{where}, swept", trial.swept)
        if left := litter(copy):
            trial.wrong.append(f"{where}: left {left}")
        shutil.rmtree(copy)

    status, count, words = run(trial.writer, trial.folder, action=PAUSE, pause=pause)
    if (status, words) != (0, ""):
        trial.wrong.append(f"{status} {words}")
    return count


def fail(trial: Trial, step: int) -> int:
    reads = trial.name == "draw"
    count = trial.clean(reads)
    for nth in range(1, count + 1, step):
        error = ERRORS[nth // step % len(ERRORS)]
        where = f"{os.strerror(error)} at {nth} of {count}"
        trial.reset()
        status, _, words = run(trial.writer, trial.folder, nth=nth, action=error, reads=reads)
        if status != 0 or (words and not (words.startswith("error: ") and words.isprintable())):
            trial.wrong.append(f"{where}: {status} {words[-1500:]}")
        trial.look(trial.folder, where)
        if not words and trial.writer.check(trial.folder) != "new":
            trial.wrong.append(f"{where}: neither an error nor the new")
        trial.recover(where)
    return count


def main() -> None:
    """Answer each line of standard input, a JSON array of words, with one JSON object."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        if os.fork() == 0:
            how, name, base, step = json.loads(line)
            try:
                trial = Trial(name, Path(base))
                count = {"kill": kill, "look": look, "fail": fail}[how](trial, step)
                found = {"count": count, "wrong": trial.wrong}
                found |= {"states": sorted(trial.states), "swept": sorted(trial.swept)}
            except BaseException:
                found = {"count": 0, "wrong": [traceback.format_exc()], "states": [], "swept": []}
            print(json.dumps(found), flush=True)
            os._exit(0)  # also with the hub's threads running
        os.wait()


if __name__ == "__main__":
    main()
