"""Backends behind one protocol, found by the manifest's ``backend``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from janus_edge.runtime.devices import Device

if TYPE_CHECKING:
    from janus_edge.runtime.cuda import Cuda
    from janus_edge.runtime.manifest import Component

Arrays = dict[str, np.ndarray]
Buffer = Any  # a numpy array, or memory that ``Engine.zeros`` returned
Buffers = Mapping[str, Buffer]


class Engine(Protocol):
    """One component, opened for execution by a backend."""

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Return all outputs in the manifest's order, in new arrays."""

    def bind(self, inputs: Buffers, outputs: Buffers, *, often: bool = True) -> Callable[[], None]:
        """Return a call that reads and writes these arrays where they are, any number of times.

        One array may be an input and an output: it is then updated in place.

        Args:
            inputs: Arrays by the name of the input.
            outputs: Arrays by the name of the output.
            often: False if the call is needed only once, so that nothing is prepared for its
                shapes.
        """

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Return cleared memory for keys and values, where it is nearest to the engine."""


@dataclass(frozen=True)
class Shared:
    """What a session's engines share.

    Attributes:
        num_threads: Threads of each engine; 0 lets the backend choose.
        device: Where they run.
    """

    num_threads: int = 0
    device: Device = field(default_factory=Device)

    @cached_property
    def cuda(self) -> Cuda:
        """The GPU, opened when first needed. Raises DeviceError."""
        from janus_edge.runtime.cuda import Cuda

        return Cuda(self.device.ordinal)


# Each module has ``load(path, component, shared) -> Engine`` and is imported when first needed.
BACKENDS = {
    "onnxruntime": "janus_edge.runtime.backends.onnxruntime",
    "tensorrt": "janus_edge.runtime.backends.tensorrt",
}


def load_engine(path: Path, component: Component, shared: Shared) -> Engine:
    """Open a component's file.

    Args:
        path: The file.
        component: What the manifest says of it.
        shared: What the session's engines share.

    Raises:
        BundleError: The file cannot be opened.
        DeviceError: The device is missing, or cannot run it.
    """
    engine: Engine = import_module(BACKENDS[component.backend]).load(path, component, shared)
    return engine
