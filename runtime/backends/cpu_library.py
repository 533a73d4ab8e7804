"""The compiled library of native/cpu, its threads, and the weights that it reads, mapped."""

from __future__ import annotations

import ctypes
import math
import os
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np

from janus_edge.runtime.errors import BundleError, OptionError
from janus_edge.runtime.limits import MOST_BYTES
from janus_edge.runtime.manifest import Component
from janus_edge.runtime.reading import open_regular

POINTER = ctypes.c_void_p
_VERSION = 2  # JE_DECODER_VERSION of native/cpu/decoder.h, whose structures Python mirrors


@cache
def library() -> ctypes.CDLL | None:
    """Return the library.

    None if the package has none or one built from other sources, or the processor cannot run it.
    """
    paths = (Path(__file__).with_name(f"_cpu_kernels{suffix}") for suffix in EXTENSION_SUFFIXES)
    return next((found for found in map(open_library, paths) if found is not None), None)


def open_library(path: Path) -> ctypes.CDLL | None:
    """Return the library in a file, None if it cannot run here."""
    try:
        found = ctypes.CDLL(str(path))
    except OSError:
        return None
    if found.je_decoder_runs_here() != _VERSION:
        return None
    found.je_pool_open.restype = POINTER
    found.je_pool_open.argtypes = (ctypes.c_int32,)
    found.je_pool_close.argtypes = (POINTER,)
    found.je_decoder_open.restype = POINTER
    found.je_decoder_open.argtypes = (POINTER, POINTER)
    found.je_decoder_close.argtypes = (POINTER,)
    found.je_decoder_run.argtypes = (
        *(POINTER, ctypes.c_int32, ctypes.c_int32, POINTER, POINTER, POINTER),
        *(ctypes.c_int32, POINTER, POINTER),
    )
    found.je_head_run.argtypes = (
        *(POINTER, POINTER, ctypes.c_int32, ctypes.c_int32, POINTER, POINTER),
    )
    return found


class Pool:
    """The threads of a decoder and its heads, of which one runs at a time."""

    def __init__(self, num_threads: int, found: ctypes.CDLL | None = None) -> None:
        """Start the threads.

        Args:
            num_threads: How many, with the caller's.
            found: A library to use instead of the package's.

        Raises:
            OptionError: The system does not have so many threads.
        """
        found = found or library()
        assert found is not None
        self.library = found
        self.address = found.je_pool_open(num_threads)
        if not self.address:
            raise OptionError(
                f"num_threads is {num_threads}: the system has no memory or no thread left for as "
                "many; give fewer"
            )

    def __del__(self) -> None:
        """End the threads."""
        if getattr(self, "address", None):
            self.library.je_pool_close(self.address)


class Weights:
    """The arrays in a file by name. The file is mapped, so only what is used is read."""

    def __init__(self, folder: Path, component: Component) -> None:
        """Map a component's data. Raises BundleError if there is no such file."""
        assert component.data is not None
        self._path, self.tensors = folder / component.data.file, component.tensors
        try:
            with os.fdopen(open_regular(self._path, MOST_BYTES["component"]), "rb") as file:
                self._bytes = np.memmap(file, np.uint8, "r")
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise BundleError(f"{self._path}: {error}; export the bundle again") from None

    def __call__(self, name: str, dtype: str, shape: tuple[int, ...]) -> int:
        """Return the address of an array of this dtype and shape.

        Raises:
            BundleError: The array is missing, of another shape or dtype, or outside the file.
        """
        found = self.tensors.get(name)
        if found is None or (found.dtype, found.shape) != (dtype, shape):
            raise BundleError(f"{self._path}: no {name} {dtype} {shape}; export the bundle again")
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if found.offset + size > len(self._bytes) or found.offset % 4:
            raise BundleError(f"{self._path}: {name} is not inside; export the bundle again")
        return int(self._bytes.ctypes.data) + found.offset

    def require(self, fits: bool) -> None:
        """Raise BundleError unless the sizes that the weights have fit together."""
        if not fits:
            raise BundleError(f"{self._path}: sizes do not fit together; export the bundle again")

    def outputs(self, name: str) -> int:
        """Return how many outputs a matmul has, by the manifest; 0 if there is no such matmul."""
        found = self.tensors.get(name)
        return found.shape[0] if found is not None and found.shape else 0
