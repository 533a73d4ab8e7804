"""The engines and tables of a bundle, each opened when first needed and kept."""

from __future__ import annotations

import numpy as np

from janus_edge.runtime.backends import Engine, load_engine
from janus_edge.runtime.bundle import Bundle


class Engines:
    """By component name. Not for several threads."""

    def __init__(self, bundle: Bundle, num_threads: int) -> None:
        """num_threads: of each engine; 0 lets the backend choose."""
        self.bundle = bundle
        self._num_threads = num_threads
        self._engines: dict[str, Engine] = {}
        self._tables: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> Engine:
        """A component's engine. Raises BundleError if it cannot be opened."""
        if name not in self._engines:
            component = self.bundle.manifest.components[name]
            path = self.bundle.path(name)
            self._engines[name] = load_engine(
                component.backend, path, self._num_threads, component.upcast
            )
        return self._engines[name]

    def open(self, *names: str) -> None:
        """Open components ahead of their use. Raises BundleError if one cannot be opened."""
        for name in names:
            self[name]

    def table(self, name: str) -> np.ndarray:
        """A look-up table; see ``Bundle.table``."""
        if name not in self._tables:
            self._tables[name] = self.bundle.table(name)
        return self._tables[name]
