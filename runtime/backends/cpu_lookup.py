"""How a component of the CPU kernels finds its weights by name (native/cpu/weights.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from janus_edge.runtime.backends.cpu_library import POINTER, Matrix, Pool, Weights
from janus_edge.runtime.errors import BundleError

_BITS = 8
_NO_MEMORY = -1  # JE_NO_MEMORY
_COUNT = ctypes.CFUNCTYPE(ctypes.c_int64, POINTER, ctypes.c_char_p)
_FLOATS = ctypes.CFUNCTYPE(POINTER, POINTER, ctypes.c_char_p, ctypes.c_int32)
_MATRIX = ctypes.CFUNCTYPE(
    ctypes.c_int,
    *(POINTER, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(Matrix)),
)


class Lookup(ctypes.Structure):
    """``je_weights``: functions that look weights up. Errors are kept for ``open``."""

    _fields_ = (("context", POINTER), ("count", _COUNT), ("floats", _FLOATS), ("matrix", _MATRIX))

    def __init__(self, weights: Weights) -> None:
        """Look up in these weights."""
        self.weights = weights
        self.error: BundleError | None = None
        functions = _COUNT(self._count), _FLOATS(self._floats), _MATRIX(self._matrix)
        super().__init__(None, *functions)

    def _count(self, _context: Any, name: bytes) -> int:
        return self.weights.count(name.decode())

    def _floats(self, _context: Any, name: bytes, count: int) -> int | None:
        try:
            return self.weights.numbers(name.decode(), count)
        except BundleError as error:
            self.error = self.error or error
            return None

    def _matrix(self, _context: Any, layer: bytes, inputs: int, outputs: int, found: Any) -> int:
        try:
            found[0] = self.weights.matrix(layer.decode(), _BITS, inputs, outputs)
        except BundleError as error:
            self.error = self.error or error
            return 0
        return 1

    def open(self, function: Callable[..., int], sizes: ctypes.Structure, pool: Pool) -> int:
        """Open a component.

        Args:
            function: The function of the library, as ``je_encoder_open``.
            sizes: Its first argument.
            pool: The threads.

        Returns:
            The address of the component.

        Raises:
            BundleError: A weight is missing or lies outside the file, or sizes do not fit.
            MemoryError: There is none left.
        """
        address = POINTER()
        refs = ctypes.byref(self), POINTER(pool.address), ctypes.byref(address)
        status = function(sizes, *refs)
        if self.error is not None:
            raise self.error
        if status == _NO_MEMORY:
            raise MemoryError("no memory for a component")
        self.weights.require(status == 0)
        return address.value or 0
