"""Heads and the aligner by the CPU kernels (native/cpu/head.c): 8-bit weights, mapped."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from janus_edge.runtime.backends import Arrays
from janus_edge.runtime.backends.cpu_library import Matrix, Pool, Weights
from janus_edge.runtime.manifest import Component, Tensor
from janus_edge.runtime.sizes import Sizes
from janus_edge.runtime.tiles import LAYOUTS

_BITS = 8


def runs(component: Component, sizes: Sizes) -> bool:
    """Return True if the kernels fit: the weights are in tiles."""
    dtypes = {each.dtype for each in component.tensors.values()}
    return any(each in LAYOUTS and LAYOUTS[each].bits == _BITS for each in dtypes)


class CpuHead:
    """A component as an ``Engine``: matmuls, in the file's order, with GELUs between."""

    def __init__(self, folder: Path, component: Component, sizes: Sizes, pool: Pool) -> None:
        """Map the weights.

        Args:
            folder: The bundle's folder.
            component: The head in the manifest.
            sizes: The sizes of the bundle.
            pool: The threads.

        Raises:
            BundleError: A weight is missing or lies outside the file, or the numbers of inputs and
                outputs differ from the manifest.
        """
        (self._given, inputs), (self._made, expected) = map(
            _end, component.inputs + component.outputs
        )
        self._pool, self._weights = pool, Weights(folder, component)
        matrices = []
        for name in self._weights.chain():
            matrices.append(self._weights.matrix(name, _BITS, inputs))
            inputs = matrices[-1].outputs
        self._weights.require(bool(matrices) and inputs == expected)
        self._matrices = (Matrix * len(matrices))(*matrices)
        self._outputs = inputs

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Return the outputs, in a new array."""
        made = np.empty((*inputs[self._given].shape[:-1], self._outputs), np.float32)
        self.bind(inputs, {self._made: made})()
        return [made]

    def zeros(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return a cleared array."""
        return np.zeros(shape, dtype)

    def bind(
        self, inputs: Arrays, outputs: Arrays, *, often: bool = True, last_only: bool = False
    ) -> Callable[[], None]:
        """Return a call on fixed arrays."""
        given, made = inputs[self._given], outputs[self._made]
        assert given.flags.c_contiguous and made.flags.c_contiguous
        rows = math.prod(given.shape[:-1])

        def call() -> None:
            failed = self._pool.library.je_head_run(
                self._pool.address,
                ctypes.addressof(self._matrices),
                len(self._matrices),
                rows,
                given.ctypes.data,
                made.ctypes.data,
            )
            if failed:
                raise MemoryError(f"no memory for {rows} rows of a head")

        return call


def _end(tensor: Tensor) -> tuple[str, int]:
    """Return the name of an input or output and its last dimension."""
    return tensor.name, int(tensor.shape[-1])
