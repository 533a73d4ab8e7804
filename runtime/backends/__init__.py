"""Backends behind one protocol: what each runs, and one table of them in order of preference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from janus_edge.runtime.devices import Device, has_kernels
from janus_edge.runtime.resources import num_processors

if TYPE_CHECKING:
    from janus_edge.runtime.backends.cpu_library import Pool
    from janus_edge.runtime.backends.cubins import Gpu
    from janus_edge.runtime.bundle import Bundle
    from janus_edge.runtime.cuda import Cuda
    from janus_edge.runtime.manifest import Manifest

Arrays = dict[str, np.ndarray]
Buffer = Any  # a numpy array, or memory that ``Engine.zeros`` returned
Buffers = Mapping[str, Buffer]


class Engine(Protocol):
    """One component, opened for execution by a backend."""

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Return all outputs in the manifest's order, in new arrays."""

    def bind(
        self, inputs: Buffers, outputs: Buffers, *, often: bool = True, last_only: bool = False
    ) -> Callable[[], None]:
        """Return a call that reads and writes these arrays where they are, any number of times.

        One array may be an input and an output: it is then updated in place.

        Args:
            inputs: Arrays by the name of the input.
            outputs: Arrays by the name of the output.
            often: False if the call is needed only once, so that nothing is prepared for its
                shapes.
            last_only: True if, of a decoder's hidden states, only those of each row's last valid
                position are needed; the others may then be left as they are.
        """

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Return cleared memory for keys and values, where it is nearest to the engine."""


@dataclass(frozen=True)
class Shared:
    """What a session's engines share.

    Attributes:
        num_threads: Of each engine; 0 lets the backend choose.
        device: Where engines run.
    """

    num_threads: int = 0
    device: Device = field(default_factory=Device)
    _gpus: dict[Path, Gpu] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def cuda(self) -> Cuda:
        """The GPU, opened when first needed. Raises DeviceError."""
        from janus_edge.runtime.cuda import Cuda

        return Cuda(self.device.ordinal)

    def gpu(self, bundle: Bundle) -> Gpu:
        """Return the GPU with a bundle's kernels. Raises DeviceError."""
        from janus_edge.runtime.backends.cubins import Gpu, Kernels

        if bundle.folder not in self._gpus:
            kernels = Kernels(self.cuda, bundle.folder, bundle.manifest.kernels)
            self._gpus[bundle.folder] = Gpu(self.cuda, kernels)
        return self._gpus[bundle.folder]

    @cached_property
    def on_cpu(self) -> Shared:
        """Return what those share that run on the CPU."""
        return self if self.device.kind == "cpu" else Shared(self.num_threads)

    @cached_property
    def pool(self) -> Pool:
        """The threads of the CPU kernels, started when first asked for. Raises OptionError."""
        from janus_edge.runtime.backends.cpu_library import Pool

        return Pool(self.num_threads or num_processors())


@dataclass(frozen=True)
class Backend:
    """What executes components.

    Attributes:
        module: Has ``load(bundle, name, shared) -> Engine``; imported when first needed.
        runs: Returns True if it executes this component of a bundle on this device.
    """

    module: str
    runs: Callable[[Manifest, str, Device], bool]


def _named(backend: str) -> Callable[[Manifest, str, Device], bool]:
    """Return a rule that is true where the manifest names the backend."""
    return lambda manifest, name, device: manifest.components[name].backend == backend


def _has_cpu_kernels(manifest: Manifest, name: str, device: Device) -> bool:
    from janus_edge.runtime.backends import cpu_kernels

    return device.kind == "cpu" and cpu_kernels.runs(name, manifest)


def _has_cuda_kernels(manifest: Manifest, name: str, device: Device) -> bool:
    from janus_edge.runtime.backends import cuda_kernels

    return device.kind == "cuda" and cuda_kernels.runs(name, manifest)


# In order of preference: the first one that runs a component executes it.
BACKENDS = {
    "cuda_kernels": Backend("janus_edge.runtime.backends.cuda_kernels", _has_cuda_kernels),
    "cpu_kernels": Backend("janus_edge.runtime.backends.cpu_kernels", _has_cpu_kernels),
    "onnxruntime": Backend("janus_edge.runtime.backends.onnxruntime", _named("onnxruntime")),
    "tensorrt": Backend("janus_edge.runtime.backends.tensorrt", _named("tensorrt")),
}


def device_of(manifest: Manifest, name: str, device: Device) -> Device:
    """Return where a component runs: on the session's device, or on the CPU beside it.

    Of a bundle with our GPU kernels, what they do not compute runs on the CPU.
    """
    if has_kernels(manifest, device):
        return device if _has_cuda_kernels(manifest, name, device) else Device()
    return device


def backend_of(manifest: Manifest, name: str, device: Device) -> str:
    """Return the name of the backend that executes a component on a device.

    A component without one (a table) has the backend that the manifest names.
    """
    device = device_of(manifest, name, device)
    for backend, each in BACKENDS.items():
        if each.runs(manifest, name, device):
            return backend
    return manifest.components[name].backend


def load_engine(bundle: Bundle, name: str, shared: Shared) -> Engine:
    """Open a component. Raises BundleError, DeviceError."""
    backend = BACKENDS[backend_of(bundle.manifest, name, shared.device)]
    if device_of(bundle.manifest, name, shared.device).kind == "cpu":
        shared = shared.on_cpu
    engine: Engine = import_module(backend.module).load(bundle, name, shared)
    return engine
