"""The compiled library of native/cpu, its threads, and the weights that it reads, mapped."""

from __future__ import annotations

import ctypes
import math
import os
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from janus_edge.runtime.errors import BundleError, OptionError
from janus_edge.runtime.manifest import Component
from janus_edge.runtime.tiles import LAYOUTS, map_data

POINTER = ctypes.c_void_p
_VERSION = 3  # JE_DECODER_VERSION of native/cpu/decoder.h, whose structures Python mirrors
# Names an instruction set, or "none" for the graphs alone (docs/cpu-kernels.md).
INSTRUCTIONS = "JANUS_EDGE_CPU_KERNELS"


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
    if found.je_decoder_runs_here() not in (0, _VERSION):
        return None
    found.je_choose_instructions.argtypes = (ctypes.c_char_p,)
    found.je_instructions.restype = ctypes.c_char_p
    wanted = os.environ.get(INSTRUCTIONS)
    if wanted == "none":
        return None
    if wanted and found.je_choose_instructions(wanted.encode()) != 1:
        raise OptionError(
            f"{INSTRUCTIONS} is {wanted}: this processor or version has none of this name"
        )
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


def instructions() -> str | None:
    """Return the name of the instruction set that the kernels use; None if they do not run."""
    found = library()
    return None if found is None else found.je_instructions().decode()


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


class Matrix(ctypes.Structure):
    """``je_matrix`` of native/cpu/decoder.h."""

    _fields_ = (
        ("tiles", POINTER),
        ("bias", POINTER),
        ("outputs", ctypes.c_int32),
        ("inputs", ctypes.c_int32),
        ("bits", ctypes.c_int32),
    )


class Weights:
    """The arrays in a file by name. The file is mapped, so only what is used is read."""

    def __init__(self, folder: Path, component: Component) -> None:
        """Map a component's data. Raises BundleError if there is no such file."""
        assert component.data is not None
        self._path, self.tensors = folder / component.data.file, component.tensors
        self._bytes = map_data(self._path)

    def __call__(self, name: str, shape: tuple[int, ...]) -> int:
        """Return the address of an array of float32 of this shape.

        Raises:
            BundleError: The array is missing, of another shape or dtype, or outside the file.
        """
        found = self.tensors.get(name)
        if found is None or (found.dtype, found.shape) != ("float32", shape):
            raise BundleError(f"{self._path}: no {name} float32 {shape}; export the bundle again")
        return self._address(name, 4 * math.prod(shape))

    def matrix(self, layer: str, dtype: str, inputs: int, outputs: int = 0) -> Matrix:
        """Return the weights of a matmul, and its bias if it has one.

        Args:
            layer: Its name.
            dtype: Of the weights: "int4_tiles" or "int8_tiles".
            inputs: How many inputs it must have.
            outputs: How many outputs it must have; 0: as many as there are.

        Raises:
            BundleError: It has others, or lies outside the file.
        """
        name, bias = f"{layer}.weight.tiles", f"{layer}.bias"
        found = self.tensors.get(name)
        shape = found.shape if found is not None and found.dtype == dtype else ()
        if len(shape) != 2 or shape != (outputs or shape[0], inputs):
            wanted = f"{outputs or 'any'} x {inputs}"
            raise BundleError(f"{self._path}: no {name} {dtype} {wanted}; export the bundle again")
        layout = LAYOUTS[dtype]
        return Matrix(
            tiles=self._address(name, layout.size(*shape)),
            bias=self(bias, shape[:1]) if bias in self.tensors else None,
            outputs=shape[0],
            inputs=inputs,
            bits=layout.bits,
        )

    def _address(self, name: str, size: int) -> int:
        offset = self.tensors[name].offset
        if offset + size > len(self._bytes) or offset % 4:
            raise BundleError(f"{self._path}: {name} is not inside; export the bundle again")
        return int(self._bytes.ctypes.data) + offset

    def require(self, fits: bool) -> None:
        """Raise BundleError unless the sizes that the weights have fit together."""
        if not fits:
            raise BundleError(f"{self._path}: sizes do not fit together; export the bundle again")
