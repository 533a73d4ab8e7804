"""The engines and tables of a bundle, each opened when first needed and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from janus_edge.runtime.backends import Arrays, Engine, load_engine
from janus_edge.runtime.bundle import Bundle
from janus_edge.runtime.decode import Decoder
from janus_edge.runtime.manifest import PREFILL
from janus_edge.runtime.memory import free_memory


class Engines:
    """By component name. Not for several threads."""

    def __init__(self, bundle: Bundle, num_threads: int) -> None:
        """num_threads: of each engine; 0 lets the backend choose."""
        self.bundle = bundle
        self._num_threads = num_threads
        self._engines: dict[str, Engine] = {}
        self._tables: dict[str, np.ndarray] = {}
        self.component_ms: dict[str, float] = {}  # spent in each, all calls together

    def __getitem__(self, name: str) -> Engine:
        """A component's engine. Raises BundleError if it cannot be opened."""
        if name not in self._engines:
            component = self.bundle.manifest.components[name]
            path = self.bundle.path(name)
            engine = load_engine(component.backend, path, self._num_threads, component.upcast)
            self._engines[name] = _Timed(engine, name, self.component_ms)
        return self._engines[name]

    def open(self, *names: str) -> None:
        """Open components ahead of their use. Raises BundleError if one cannot be opened."""
        for name in names:
            self[name]

    def decoder(self, rows: int, max_length: int) -> Decoder:
        """The decoder, with caches of its own. Raises BundleError if it cannot be opened."""
        manifest = self.bundle.manifest
        step, many = self["decoder"], self._copy_for_many()
        return Decoder(step, manifest.sizes, rows, max_length, manifest.cache_type, many)

    def _copy_for_many(self) -> Engine | None:
        """The decoder's copy for many positions at once, where the bundle has one and memory has
        room for it."""
        if PREFILL not in self.bundle.manifest.components:
            return None
        if PREFILL not in self._engines and self.bundle.num_bytes(PREFILL) > free_memory():
            return None
        return self[PREFILL]

    def table(self, name: str) -> np.ndarray:
        """A look-up table; see ``Bundle.table``."""
        if name not in self._tables:
            self._tables[name] = self.bundle.table(name)
        return self._tables[name]


class _Timed:
    """An engine that adds up its time under its component's name; see ``Engine``."""

    def __init__(self, engine: Engine, name: str, spent_ms: dict[str, float]) -> None:
        self._engine, self._name, self._spent_ms = engine, name, spent_ms

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """All outputs, in new arrays."""
        with self._clock():
            return self._engine.run(inputs)

    def bind(self, inputs: Arrays, outputs: Arrays) -> Callable[[], None]:
        """A call on fixed arrays."""
        call = self._engine.bind(inputs, outputs)

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
