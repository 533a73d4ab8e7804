"""Where the time of a request goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

Item = TypeVar("Item")


@dataclass
class DeviceClock:
    """Of a loop on a device. ends_ms: when each step was there, since its start, by the device's
    clock. sent_ms: what the host needed to send all of them."""

    ends_ms: list[float] = field(default_factory=list)
    sent_ms: float = 0.0

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Add the time of the block."""
        began = time.perf_counter()
        yield
        self.sent_ms += (time.perf_counter() - began) * 1e3


class Stopwatch:
    """Milliseconds since it was made, those spent inside each named part, and when each step of
    a loop ended."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._parts: dict[str, float] = {}
        self.step_ends_ms: list[float] = []

    @property
    def elapsed_ms(self) -> float:
        """Since it was made."""
        return (time.perf_counter() - self._began) * 1e3

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block to a part."""
        began = time.perf_counter()
        try:
            yield
        finally:
            spent = (time.perf_counter() - began) * 1e3
            self._parts[name] = self._parts.get(name, 0.0) + spent

    def steps(self, items: Iterator[Item]) -> Iterator[Item]:
        """Pass on what a decode loop yields; its first step is "prefill", the others "decode"."""
        return self.each(items, "decode", first="prefill")

    def each(self, items: Iterator[Item], name: str, first: str | None = None) -> Iterator[Item]:
        """Pass on what a loop yields; its time, not the caller's, goes to a part."""
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
        """All parts and the total, rounded to microseconds."""
        timings = {name: round(spent, 3) for name, spent in self._parts.items()}
        return timings | {"total": round(self.elapsed_ms, 3)}
