"""Heads by the CPU kernels (native/cpu/head.c): 8-bit weights in blocks of 32, mapped."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np

from janus_edge.runtime.backends import Arrays
from janus_edge.runtime.backends.cpu_library import POINTER, Pool, Weights
from janus_edge.runtime.manifest import Component
from janus_edge.runtime.sizes import Sizes


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("quantized", POINTER),
        ("scales", POINTER),
        ("bias", POINTER),
        ("outputs", ctypes.c_int32),
        ("inputs", ctypes.c_int32),
    )


_LAYERS = ("projected", "logits")  # in this order; a head has one or both


def runs(component: Component, sizes: Sizes) -> bool:
    """Return True if the kernels fit: inputs in steps of 64, outputs in fours."""
    shapes = [each.shape for each in component.tensors.values() if each.dtype == "uint8"]
    fit = all(len(s) == 3 and s[0] % 4 == s[1] % 2 == 0 and s[2] == 32 for s in shapes)
    return bool(shapes) and fit and sizes.hidden_size % 64 == 0


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
                matrices.append(self._matrix(name, inputs))
                inputs = matrices[-1].outputs
        self._weights.require(inputs == expected)
        self._matrices = (_Matrix * len(matrices))(*matrices)
        self._outputs = inputs

    def _matrix(self, name: str, inputs: int) -> _Matrix:
        """Return a layer; the number of its outputs is that of its weights."""
        weights, bias = self._weights, f"{name}.bias"
        quantized = f"{name}.weight.quantized"
        outputs, blocks = weights.outputs(quantized), inputs // 32
        weights.require(inputs % 64 == 0)
        return _Matrix(
            quantized=weights(quantized, "uint8", (outputs, blocks, 32)),
            scales=weights(f"{name}.weight.scales", "float32", (outputs, blocks)),
            bias=weights(bias, "float32", (outputs,)) if bias in weights.tensors else None,
            outputs=outputs,
            inputs=inputs,
        )

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
