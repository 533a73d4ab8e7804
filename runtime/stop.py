"""Let Ctrl-C and ``kill`` end a program cleanly: its blocks clean up, and it says what it kept."""

from __future__ import annotations

import signal
import sys
import threading
import time
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol, TypeVar


class Display(Protocol):
    """Shows progress on a terminal, as rich's Live, Progress and Status do."""

    def start(self) -> None:
        """Begin to show."""

    def stop(self) -> None:
        """Leave a clean terminal; once is as good as twice."""


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN_S = 0.05  # until a signal is sent again: by then Python has left the callback
_DISPLAYS: list[Display] = []  # those that are shown now
_Shown = TypeVar("_Shown", bound=Display)


class Stopped(BaseException):  # no Exception, and no KeyboardInterrupt, which libraries catch
    """The program is to end.

    Attributes:
        code: Its exit status.
        kept: What it leaves behind, in words.
    """

    def __init__(self, number: int) -> None:
        """Set the exit status to 128 and the signal's number."""
        super().__init__(number)
        self.code = 128 + number
        self.kept = ""

    def __str__(self) -> str:
        """Return the line that the program ends with."""
        return f"stopped; {self.kept}" if self.kept else "stopped"


@contextmanager
def stoppable(*, is_last: bool = False) -> Iterator[None]:
    """Raise Stopped in the block at the first Ctrl-C or SIGTERM; the second ends it at once.

    A signal that is ignored, as by nohup, stays so. One that comes where Python discards exceptions
    is sent again. For the main thread.

    Args:
        is_last: The program ends with the block. A Ctrl-C that comes after it changes nothing,
            instead of a traceback while Python shuts down.
    """
    before = {each: signal.getsignal(each) for each in _SIGNALS}
    handled = [each for each, handler in before.items() if handler is not signal.SIG_IGN]
    stopped_by: list[int] = []
    is_discarding = False

    def stop(number: int, frame: FrameType | None) -> None:
        if is_discarding:
            _send_again(number)
            return
        stopped_by.append(number)
        for each in handled:
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(number)

    def arm() -> None:
        for each in handled:
            signal.signal(each, stop)

    def discarded(what: sys.UnraisableHookArgs) -> None:
        nonlocal is_discarding
        if not isinstance(what.exc_value, Stopped):
            before_hook(what)
            return
        is_discarding = True
        arm()
        _send_again(stopped_by.pop())
        is_discarding = False  # Python handles no signal between this and the end of the callback

    before_hook, sys.unraisablehook = sys.unraisablehook, discarded
    arm()
    try:
        yield
    finally:
        after = signal.SIG_DFL if stopped_by else signal.SIG_IGN
        for each in handled:
            signal.signal(each, after if is_last else before[each])
        sys.unraisablehook = before_hook


def _send_again(number: int) -> None:
    """Send a signal to the main thread in a while, also if it waits then."""

    def send() -> None:
        time.sleep(_AGAIN_S)
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident or 0, number)
        else:  # Windows
            signal.raise_signal(number)

    start_new_thread(send, ())  # threading's own locks may be held where a signal comes


@contextmanager
def displayed(display: _Shown) -> Iterator[_Shown]:
    """Show a display while the block runs.

    A signal can come between ``__enter__`` and the block, and then ``__exit__`` is never called. So
    whoever catches Stopped calls ``end_displays`` before it prints.

    Args:
        display: It is started here, and yielded.
    """
    _DISPLAYS.append(display)
    try:
        with _held():
            display.start()
        yield display
    finally:
        with _held():
            display.stop()
            if display in _DISPLAYS:
                _DISPLAYS.remove(display)


def end_displays() -> None:
    """Stop each display that a signal left on the terminal."""
    while _DISPLAYS:
        _DISPLAYS.pop().stop()


@contextmanager
def _held() -> Iterator[None]:
    """Let a signal that comes in the block take effect after it: half a display is never shown.

    A second one ends the program at once, as a terminal may never take what is shown.
    """
    if threading.current_thread() is not threading.main_thread():  # only it can set a handler
        yield
        return
    came: list[int] = []
    before = {each: signal.getsignal(each) for each in _SIGNALS}
    handled = [each for each, handler in before.items() if callable(handler)]

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for each in handled:
        signal.signal(each, note)
    try:
        yield
    finally:
        for each in handled:
            signal.signal(each, before[each])
        if came:
            signal.raise_signal(came[0])


@contextmanager
def keeping(say: Callable[[], str]) -> Iterator[None]:
    """Note what the block keeps if it is stopped.

    Args:
        say: Returns the words, called when the block is stopped.
    """
    try:
        yield
    except Stopped as stop:
        stop.kept = stop.kept or say()
        raise


@contextmanager
def comes_through() -> Iterator[None]:
    """Raise Stopped itself where a library in the block raises its own exception because of it."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, Stopped):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from None


@contextmanager
def ignored_by_children() -> Iterator[None]:
    """Let processes started in the block survive a terminal's Ctrl-C; their starter ends them."""
    if threading.current_thread() is not threading.main_thread():  # only it can set a handler
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
