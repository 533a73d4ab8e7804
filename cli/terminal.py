"""What commands show while they work, on standard error so that output can be piped."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from janus_edge.runtime.stop import displayed


class _Count(ProgressColumn):
    """Column of what is done and what is to be done, once that is known."""

    def render(self, task: Task) -> Text:
        return Text("opening" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}")


class _Rate(ProgressColumn):
    """Column of codes or steps per second over the last moments."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text("")
        digits = 0 if speed >= 10 else 1
        return Text(f"{speed:.{digits}f} {task.fields['unit']}/s")


def one_line(text: str, most: int = 100) -> str:
    """Return a text as a terminal can show it: one line without control characters, cut.

    Args:
        text: Any text.
        most: Longest line, in characters.
    """
    shown = "".join(each if each.isprintable() else "\ufffd" for each in " ".join(text.split()))
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def without_controls(text: str) -> str:
    """Return a model's text for a terminal, which control characters would steer."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text)


@contextmanager
def drawing_bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show a progress bar with codes or steps per second and the time left.

    Yields:
        A function that updates the bar: done, total, unit.
    """
    columns = (TextColumn(title), BarColumn(), _Count())
    console = Console(stderr=True)
    bar = Progress(
        *columns,
        _Rate(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
        disable=not console.is_terminal,
    )
    with displayed(bar):
        task = bar.add_task(title, total=None, unit="")
        yield lambda done, total, unit: bar.update(task, completed=done, total=total, unit=unit)
