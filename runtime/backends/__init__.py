"""Engine kinds behind one protocol, found by the manifest's ``backend``."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

Arrays = dict[str, np.ndarray]


class Engine(Protocol):
    """One compiled component."""

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """All outputs in the manifest's order, in new arrays."""

    def bind(self, inputs: Arrays, outputs: Arrays) -> Callable[[], None]:
        """A call that reads and writes these arrays where they are, as often as wanted.

        One array may be an input and an output: it is then updated in place.
        """


# Each module has ``load(path, num_threads, upcast) -> Engine``; it is imported when first needed.
BACKENDS = {"onnxruntime": "janus_edge.runtime.backends.onnxruntime"}


def load_engine(backend: str, path: Path, num_threads: int, upcast: str = "load") -> Engine:
    """Open a component's file. num_threads 0 lets the backend choose; upcast: see the manifest.

    Raises BundleError.
    """
    return import_module(BACKENDS[backend]).load(path, num_threads, upcast)
