"""The engines and tables of a bundle, each opened when first needed and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from janus_edge.runtime.backends import Arrays, Engine, load_engine, native
from janus_edge.runtime.backends.native_library import Pool
from janus_edge.runtime.bundle import Bundle
from janus_edge.runtime.decode import Decoder
from janus_edge.runtime.manifest import PREFILL
from janus_edge.runtime.resources import free_memory, num_processors


class Engines:
    """By component name. Not for several threads."""

    def __init__(self, bundle: Bundle, num_threads: int) -> None:
        """num_threads: of each engine; 0 lets the backend choose. Raises OptionError if the system
        has not as many."""
        self.bundle = bundle
        self._num_threads = num_threads
        ours = any(native.runs(name, bundle.manifest) for name in bundle.manifest.components)
        self._pool = Pool(num_threads or num_processors()) if ours else None
        self._engines: dict[str, Engine] = {}
        self._tables: dict[str, np.ndarray] = {}
        self.component_ms: dict[str, float] = {}  # spent in each, all calls together

    def __getitem__(self, name: str) -> Engine:
        """A component's engine. Raises BundleError if it cannot be opened."""
        if name not in self._engines:
            self._engines[name] = _Timed(self._load(name), name, self.component_ms)
        return self._engines[name]

    def _load(self, name: str) -> Engine:
        manifest = self.bundle.manifest
        if self._pool and native.runs(name, manifest):
            return native.load(name, self.bundle.folder, manifest, self._pool)
        component, path = manifest.components[name], self.bundle.path(name)
        return load_engine(component.backend, path, self._num_threads, component.upcast)

    @property
    def is_native(self) -> bool:
        """Whether the decoder is our own, not the graph's."""
        return native.runs("decoder", self.bundle.manifest)

    def open(self, *names: str) -> None:
        """Open components ahead of their use, side by side: each takes one processor. Raises
        BundleError if one cannot be opened."""
        closed = dict.fromkeys(name for name in names if name not in self._engines)
        if closed:
            with ThreadPoolExecutor(num_processors()) as pool:
                list(pool.map(self.__getitem__, closed))

    def decoder(
        self, rows: int, max_length: int, *, steps: bool = True, many: bool = True
    ) -> Decoder:
        """The decoder, with caches of its own; steps, many: see ``decoders``. Raises BundleError if
        it cannot be opened."""
        names, manifest = self.decoders(steps=steps, many=many), self.bundle.manifest
        self.open(*names)
        step, wide = (self[name] for name in names)
        return Decoder(step, manifest.sizes, rows, max_length, manifest.cache_type, wide)

    def decoders(self, *, steps: bool = True, many: bool = True) -> tuple[str, str]:
        """Which component takes the decoder's steps, and which takes many positions at once: its
        copy for them, where the bundle has one, memory has room for it and the decoder is not our
        own, which is as fast without.

        steps: whether there will be steps; many: whether so many positions that it is worth opening
        the copy for them. What is not needed stays closed.
        """
        wide = "decoder"
        if many and PREFILL in self.bundle.manifest.components and not self.is_native:
            is_open = PREFILL in self._engines
            if is_open or self.bundle.num_bytes(PREFILL) < free_memory():
                wide = PREFILL
        return "decoder" if steps else wide, wide

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
