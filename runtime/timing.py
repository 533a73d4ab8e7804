"""Measure where the time of a request goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from janus_edge.runtime.events import Pass

Item = TypeVar("Item")


@dataclass
class DeviceClock:
    """The times of a loop on a device.

    Attributes:
        ends_ms: When each step ended, ms since the loop's start by the device's clock.
        sent_ms: How long the host needed to send all steps, ms.
        passes: The passes, if each computed several positions.
    """

    ends_ms: list[float] = field(default_factory=list)
    sent_ms: float = 0.0
    passes: list[Pass] = field(default_factory=list)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Add the time of the block to ``sent_ms``."""
        began = time.perf_counter()
        yield
        self.sent_ms += (time.perf_counter() - began) * 1e3


class Stopwatch:
    """Milliseconds since it was made, and those spent inside each named part.

    Attributes:
        step_ends_ms: When each step of a loop ended, ms since the stopwatch was made.
        passes: What the loop's passes took.
    """

    def __init__(self) -> None:
        """Start the stopwatch."""
        self._began = time.perf_counter()
        self._parts: dict[str, float] = {}
        self.step_ends_ms: list[float] = []
        self.passes: list[Pass] = []

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the stopwatch was made."""
        return (time.perf_counter() - self._began) * 1e3

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block to a part."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, (time.perf_counter() - began) * 1e3)

    def add(self, name: str, spent_ms: float) -> None:
        """Add time, ms, to a part."""
        self._parts[name] = self._parts.get(name, 0.0) + spent_ms

    def steps(self, items: Iterator[Item]) -> Iterator[Item]:
        """Pass on a decode loop's items; its first step is part "prefill", the others "decode"."""
        return self.each(items, "decode", first="prefill")

    def each(self, items: Iterator[Item], name: str, first: str | None = None) -> Iterator[Item]:
        """Pass on what a loop yields; add the loop's time, not the caller's, to a part.

        Args:
            items: The loop.
            name: The part.
            first: The part of the first step, if it is another.
        """
        part = first or name
        while True:
            with self.part(part):
                item = next(items, None)
            if item is None:
                return
            self.step_ends_ms.append(self.elapsed_ms)
            yield item
            part = name

    def timings_ms(self) -> dict[str, float]:
        """Return the milliseconds of all parts and ``total``, rounded to microseconds."""
        timings = {name: round(spent, 3) for name, spent in self._parts.items()}
        return timings | {"total": round(self.elapsed_ms, 3)}
