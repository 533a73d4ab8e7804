"""An engine whose time is taken and whose results are checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from janus_edge.runtime.backends import Arrays, Buffer, Buffers, Engine
from janus_edge.runtime.errors import BundleError


def check_finite(name: str, arrays: Iterable[np.ndarray]) -> None:
    """Raise BundleError if a component computed a number that is not finite.

    What followed would be noise.
    """
    if not all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f"):
        raise BundleError(f"{name}: computes what is no finite number; export the bundle again")


class TimedEngine:
    """An engine that adds its time to its component's; see ``Engine``."""

    def __init__(self, engine: Engine, name: str, spent_ms: dict[str, float]) -> None:
        """Wrap an engine; its time is added to ``spent_ms[name]``."""
        self.engine, self._name, self._spent_ms = engine, name, spent_ms

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Return all outputs, in new arrays.

        Raises:
            BundleError: A number is not finite: what followed would be noise.
        """
        with self._clock():
            found = self.engine.run(inputs)
        check_finite(self._name, found)
        return found

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Return cleared memory for keys and values."""
        return self.engine.zeros(shape, dtype)

    def bind(
        self, inputs: Buffers, outputs: Buffers, *, often: bool = True, last_only: bool = False
    ) -> Callable[[], None]:
        """Return a call on fixed arrays."""
        call = self.engine.bind(inputs, outputs, often=often, last_only=last_only)

        def timed() -> None:
            with self._clock():
                call()

        return timed

    @contextmanager
    def _clock(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            spent = (time.perf_counter() - began) * 1e3
            self._spent_ms[self._name] = self._spent_ms.get(self._name, 0.0) + spent
