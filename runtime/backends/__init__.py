"""Engine kinds behind one protocol, found by the manifest's ``backend``."""

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
Buffer = Any  # an array of numpy's, or memory that ``Engine.zeros`` has given
Buffers = Mapping[str, Buffer]


class Engine(Protocol):
    """One compiled component."""

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """All outputs in the manifest's order, in new arrays."""

    def bind(self, inputs: Buffers, outputs: Buffers, *, often: bool = True) -> Callable[[], None]:
        """A call that reads and writes these arrays where they are, as often as wanted.

        One array may be an input and an output: it is then updated in place. often: False where it
        is wanted once, and nothing should be prepared for its shapes.
        """

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Cleared memory for keys and values, where the engine has them nearest."""


@dataclass(frozen=True)
class Shared:
    """What a session's engines share. num_threads: of each; 0 lets the backend choose."""

    num_threads: int = 0
    device: Device = field(default_factory=Device)

    @cached_property
    def cuda(self) -> Cuda:
        """The GPU, opened when first asked for. Raises DeviceError."""
        from janus_edge.runtime.cuda import Cuda

        return Cuda(self.device.ordinal)


# Each module has ``load(path, component, shared) -> Engine``; it is imported when first needed.
BACKENDS = {
    "onnxruntime": "janus_edge.runtime.backends.onnxruntime",
    "tensorrt": "janus_edge.runtime.backends.tensorrt",
}


def load_engine(path: Path, component: Component, shared: Shared) -> Engine:
    """Open a component's file. Raises BundleError, DeviceError."""
    engine: Engine = import_module(BACKENDS[component.backend]).load(path, component, shared)
    return engine
