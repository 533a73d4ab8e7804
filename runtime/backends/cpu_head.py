"""Heads by the CPU kernels (native/cpu/head.c): 8-bit weights in blocks of 32, mapped."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np

from janus_edge.runtime.backends import Arrays
from janus_edge.runtime.backends.cpu_library import Matrix, Pool, Weights
from janus_edge.runtime.manifest import Component
from janus_edge.runtime.sizes import Sizes

_DTYPE = "int8_tiles"
_LAYERS = ("projected", "logits")  # in this order; a head has one or both


def runs(component: Component, sizes: Sizes) -> bool:
    """Return True if the kernels fit: the weights are in tiles."""
    return any(each.dtype == _DTYPE for each in component.tensors.values())


class CpuHead:
    """A head as an ``Engine``: hidden states (R, D) to logits (R, V)."""

    def __init__(self, folder: Path, component: Component, sizes: Sizes, pool: Pool) -> None:
        """Map the weights.

        Args:
            folder: The bundle's folder.
            component: The head in the manifest.
            sizes: The sizes of the bundle.
            pool: The threads.

        Raises:
            BundleError: A weight is missing or lies outside the file, or the number of logits
                differs from the manifest.
        """
        expected = component.outputs[0].shape[-1]
        self._pool, self._weights = pool, Weights(folder, component)
        inputs, matrices = sizes.hidden_size, []
        for name in _LAYERS:
            if name == "logits" or any(t.startswith(f"{name}.") for t in component.tensors):
                matrices.append(self._weights.matrix(name, _DTYPE, inputs))
                inputs = matrices[-1].outputs
        self._weights.require(inputs == expected)
        self._matrices = (Matrix * len(matrices))(*matrices)
        self._outputs = inputs

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Return the logits, in a new array."""
        logits = np.empty((len(inputs["hidden"]), self._outputs), np.float32)
        self.bind(inputs, {"logits": logits})()
        return [logits]

    def zeros(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return a cleared array."""
        return np.zeros(shape, dtype)

    def bind(self, inputs: Arrays, outputs: Arrays, *, often: bool = True) -> Callable[[], None]:
        """Return a call on fixed arrays."""
        hidden, logits = inputs["hidden"], outputs["logits"]
        assert hidden.flags.c_contiguous and logits.flags.c_contiguous

        def call() -> None:
            failed = self._pool.library.je_head_run(
                self._pool.address,
                ctypes.addressof(self._matrices),
                len(self._matrices),
                len(hidden),
                hidden.ctypes.data,
                logits.ctypes.data,
            )
            if failed:
                raise MemoryError(f"no memory for {len(hidden)} rows of a head")

        return call
