"""Ctrl-C, SIGTERM, a reader that goes: an exit code, one line, a clean screen, no half a file."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from janus_edge.runtime.stop import Stopped, comes_through
from janus_edge.train.worlds import write_world

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
CLI = [sys.executable, "-m", "janus_edge"]
_LONGEST_S = 120


class Terminal:
    """A program on a terminal of its own."""

    def __init__(
        self, words: list[str | Path], cwd: Path, program: str = "janus_edge", **env: str
    ) -> None:
        self.shown, (self._ours, theirs) = "", pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", program, *map(str, words)],
            cwd=cwd,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "100"} | env,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def read(self, until: Callable[[], bool]) -> None:
        """Show what it prints until something holds or the program ends."""
        end = time.monotonic() + _LONGEST_S
        while not until():
            if time.monotonic() > end:
                self.process.kill()
                raise AssertionError(self.shown)
            if select.select([self._ours], [], [], 0.05)[0]:
                try:
                    self.shown += os.read(self._ours, 65536).decode()
                except OSError:  # the other end is closed
                    break

    def has_opened(self, library: str) -> bool:
        try:
            maps = Path(f"/proc/{self.process.pid}/maps").read_text(encoding="utf-8")
        except OSError:
            return True
        return library in maps

    def stop(self, number: int) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        try:
            self.read(lambda: False)
            return self.process.wait(_LONGEST_S)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self._ours)


def ends_cleanly(terminal: Terminal, kept: str) -> None:
    assert "Traceback" not in terminal.shown and "Error" not in terminal.shown
    last = re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", terminal.shown.splitlines()[-1])
    assert re.fullmatch(f"stopped; {kept}", last), terminal.shown
    hidden, visible = (terminal.shown.rfind(f"\x1b[?25{letter}") for letter in "lh")
    assert hidden <= visible  # the cursor
    behind = terminal.shown[terminal.shown.rfind("\x1b") :]
    assert not re.search("drawing|measuring|━", behind), behind


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_generate(tmp_path: Path, number: int, code: int) -> None:
    terminal = Terminal(["generate", "a star", "-n", "500"], tmp_path)
    terminal.read(lambda: "drawing" in terminal.shown)
    assert terminal.stop(number) == code
    ends_cleanly(terminal, "no image was finished|[0-9]+ of 500 images kept")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert all(re.fullmatch(r"out-[0-9]+\.png", name) for name in left)
    assert len(re.findall(r"out-[0-9]+\.png\tseed", terminal.shown.expandtabs(1)) or left) == len(
        left
    )


def test_ask_while_it_waits_for_an_image(tmp_path: Path) -> None:
    terminal = Terminal(["ask", "-", "what is it?"], tmp_path)
    terminal.read(lambda: "Ctrl-D ends it" in terminal.shown)
    assert terminal.stop(signal.SIGINT) == 130
    assert terminal.shown.splitlines()[-1] == "stopped" and "Traceback" not in terminal.shown


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["eval", "shapes", "--record", "r.jsonl", "--sheet", "s.png"], "nothing was recorded"),
        (["bench", "--runs", "500", "--record", "r.jsonl"], "nothing was recorded"),
    ],
)
def test_long_work(tmp_path: Path, words: list[str], kept: str) -> None:
    terminal = Terminal(words, tmp_path)
    terminal.read(lambda: terminal.has_opened("onnxruntime_pybind"))
    end = time.monotonic() + 1
    terminal.read(lambda: time.monotonic() > end)
    assert terminal.stop(signal.SIGINT) == 130
    ends_cleanly(terminal, kept)
    assert not list(tmp_path.iterdir())


def test_export(checkpoint_dir: Path, tmp_path: Path) -> None:
    terminal = Terminal(["export", checkpoint_dir, "mine"], tmp_path)
    terminal.read(lambda: "ok" in terminal.shown or "MB" in terminal.shown)
    assert terminal.stop(signal.SIGINT) == 130
    ends_cleanly(terminal, "no bundle was written")
    assert not list(tmp_path.iterdir())


def test_pull(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hub")}
        terminal = Terminal(["pull", "owner/name"], tmp_path, **env)
        silent.settimeout(_LONGEST_S)
        connection, _ = silent.accept()
        assert terminal.stop(signal.SIGINT) == 130
        connection.close()
    ends_cleanly(terminal, "what was downloaded is kept: run it again to go on")


@pytest.mark.parametrize("after_s", [0.1, 0.2, 0.4, 0.8])
def test_at_any_time(tmp_path: Path, after_s: float) -> None:
    """Also while modules are imported, from when Python has read the first of ours."""
    terminal = Terminal(["models"], tmp_path)
    terminal.read(lambda: terminal.has_opened("_bisect") or terminal.process.poll() is not None)
    time.sleep(after_s)
    assert terminal.stop(signal.SIGINT) in (0, 130)
    assert "Traceback" not in terminal.shown


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_when_all_is_done(number: str) -> None:
    """Python takes a while to end: a signal in that time changes nothing."""
    code = f"""
import os, signal
from janus_edge.runtime.stop import stoppable
with stoppable(is_last=True):
    pass
os.kill(os.getpid(), signal.{number})
print("ended")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")


@pytest.mark.parametrize(("words", "code"), [(["models"], 0), (["inspect", "nothing"], 1)])
def test_a_process_of_torchrun_leaves_nothing_to_the_end_of_python(
    words: list[str], code: int
) -> None:
    """There a thread of Gloo, which outlives its process group, may abort the process."""
    program = """
import atexit
from janus_edge.cli.main import main
atexit.register(print, "Python ends")
main()
"""

    def ends(**env: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", program, *words]
        return subprocess.run(
            line, capture_output=True, encoding="utf-8", env=os.environ | env, timeout=_LONGEST_S
        )

    one, alone = ends(RANK="0"), ends()
    assert one.returncode == alone.returncode == code
    assert (one.stdout + "Python ends\n", one.stderr) == (alone.stdout, alone.stderr)


def run(tmp_path: Path, line: str) -> subprocess.CompletedProcess[str]:
    program = " ".join(CLI)
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line.replace('janus-edge', program)}"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=_LONGEST_S,
    )


def test_a_reader_that_goes(tmp_path: Path) -> None:
    done = run(tmp_path, "janus-edge models --help | true")
    assert done.stderr == "" and done.returncode in (0, 1)
    done = run(tmp_path, "janus-edge generate 'a star' -o - | true")
    assert done.returncode == 1
    assert re.fullmatch(
        "error: standard output: cannot be written: Broken pipe; choose another place\n",
        done.stderr,
    )


@pytest.mark.parametrize("where", [">/dev/full", "| cat", ">&-", "2>&-", "<&-", ">&- 2>&-"])
def test_streams_that_are_full_or_closed(tmp_path: Path, where: str) -> None:
    done = run(tmp_path, f"janus-edge models {where}")
    if where == ">/dev/full":
        says = "error: standard output: No space left on device; send it somewhere else\n"
        assert (done.returncode, done.stderr) == (1, says)
    else:
        assert (done.returncode, done.stderr) == (0, "")
    done = run(tmp_path, f"janus-edge inspect nothing {where}")
    assert done.returncode == 1
    assert len(done.stdout + done.stderr) == 0 if "2>&-" in where else "no such" in done.stderr
    assert "2>&-" not in where or done.stdout == ""
    done = run(tmp_path, f"echo hello | janus-edge chat --model tiny-janus {where}")
    if where != ">/dev/full":
        assert (done.returncode, done.stderr) == (0, "")


def test_training(tmp_path: Path) -> None:
    """It says what is saved and how to go on."""
    write_world("shapes", tmp_path / "data", 60)
    terminal = Terminal(["train", "tiny-janus", "--data", "data", "-o", "run"], tmp_path)
    terminal.read(lambda: "━" in terminal.shown)
    assert terminal.stop(signal.SIGINT) == 130
    said = r"stage \w+ is saved at step \d+ of \d+: start again with the same words to go on there"
    ends_cleanly(terminal, said)


def test_a_stop_that_a_library_turns_into_its_own_error_comes_through() -> None:
    """As PyTorch's exporter does."""
    with pytest.raises(Stopped), comes_through():
        try:
            raise Stopped(signal.SIGTERM)
        except BaseException as error:
            raise RuntimeError("failed to convert") from error
    with pytest.raises(RuntimeError, match="of itself"), comes_through():
        raise RuntimeError("of itself")
