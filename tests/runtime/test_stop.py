"""A signal never leaves half a display on the terminal, nor a display that draws on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from janus_edge.cli import app, main
from janus_edge.runtime import stop
from janus_edge.runtime.stop import Stopped, displayed, end_displays, stoppable


class Display:
    """Notes what is done with it; a signal comes in the middle of one of its steps."""

    def __init__(self, signal_in: str = "") -> None:
        self.signal_in, self.did = signal_in, list[str]()

    def start(self) -> None:
        self._do("start")

    def stop(self) -> None:
        self._do("stop")

    def _do(self, step: str) -> None:
        self.did.append(f"{step} begins")
        if self.signal_in == step:
            signal.raise_signal(signal.SIGTERM)
        self.did.append(f"{step} ends")


@pytest.mark.parametrize(("signal_in", "block_runs"), [("start", False), ("stop", True)])
def test_a_display_starts_and_stops_as_a_whole(signal_in: str, block_runs: bool) -> None:
    display, ran = Display(signal_in), False
    with pytest.raises(Stopped), stoppable():
        try:
            with displayed(display):
                ran = True
        finally:
            end_displays()
    assert display.did == ["start begins", "start ends", "stop begins", "stop ends"]
    assert ran == block_runs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_callback_that_cannot_raise_is_not_lost(
    number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Such as a weak reference's: while modules are imported, each frees a lock by one."""

    class Thing:
        pass

    hook = sys.unraisablehook
    began = time.monotonic()
    with pytest.raises(Stopped) as stopped, stoppable():
        thing = Thing()
        reference = weakref.ref(thing, lambda _: signal.raise_signal(number))
        del thing
        assert reference() is None
        time.sleep(20)
    assert time.monotonic() - began < 10  # also what waits is ended
    assert stopped.value.code == 128 + number
    assert sys.unraisablehook is hook
    assert capfd.readouterr().err == ""


def test_a_signal_is_not_lost_while_it_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two come one after another: the second amid what Python does about the first."""
    sent: list[int] = []

    def send_again(number: int) -> None:
        sent.append(number)
        if len(sent) == 1:
            signal.raise_signal(number)
        else:
            original(number)

    original = stop._send_again
    monkeypatch.setattr(stop, "_send_again", send_again)

    class Thing:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped), stoppable():
        Thing()
        time.sleep(20)
    assert sent == [signal.SIGTERM] * 2


def test_other_exceptions_that_cannot_be_raised_are_shown() -> None:
    code = """
from janus_edge.runtime.stop import stoppable
class Thing:
    def __del__(self):
        raise ValueError("from __del__")
with stoppable():
    Thing()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and "ValueError: from __del__" in done.stderr


def test_a_second_signal_ends_the_program_though_a_display_hangs() -> None:
    code = """
import os, signal, time
from janus_edge.runtime.stop import displayed, stoppable
class Display:
    def start(self):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        time.sleep(60)
    def stop(self): pass
with stoppable(), displayed(Display()):
    pass
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=30)
    assert done.returncode == -signal.SIGTERM


def test_a_display_whose_block_was_never_entered_ends_before_the_last_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Shown(Display):
        def stop(self) -> None:
            super().stop()
            assert capsys.readouterr().err == ""

    display = Shown()

    @contextmanager
    def bar() -> Iterator[None]:
        with displayed(display):
            yield

    kept = bar()  # as a traceback keeps it

    def command(*_: Any, **__: Any) -> None:
        kept.__enter__()
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(app, "app", command)
    assert main.run(["models"]) == 128 + signal.SIGINT
    assert display.did == ["start begins", "start ends", "stop begins", "stop ends"]
    assert capsys.readouterr().err == "stopped\n"
