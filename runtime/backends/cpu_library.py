"""The compiled library of native/cpu, its threads, and the weights that it reads, mapped."""

from __future__ import annotations

import ctypes
import math
import os
import time
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np

from janus_edge.runtime.errors import BundleError, OptionError
from janus_edge.runtime.manifest import Component
from janus_edge.runtime.tiles import LAYOUTS, Layout, map_data

POINTER = ctypes.c_void_p
_VERSION = 7  # JE_DECODER_VERSION of native/cpu/decoder.h, whose structures Python mirrors
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
    found.je_pool_use.argtypes = (POINTER, ctypes.c_int32)
    found.je_decoder_open.restype = POINTER
    found.je_decoder_open.argtypes = (POINTER, POINTER)
    found.je_decoder_close.argtypes = (POINTER,)
    found.je_decoder_run.argtypes = (
        *(POINTER, ctypes.c_int32, ctypes.c_int32, POINTER, POINTER, POINTER),
        *(ctypes.c_int32, POINTER, POINTER, ctypes.c_int32),
    )
    found.je_head_run.argtypes = (
        *(POINTER, POINTER, ctypes.c_int32, ctypes.c_int32, POINTER, POINTER),
    )
    found.je_pool_multiply.restype = ctypes.c_int64
    found.je_pool_multiply.argtypes = (POINTER, ctypes.c_int32)
    for name in ("encoder", "image_decoder"):
        getattr(found, f"je_{name}_close").argtypes = (POINTER,)
        getattr(found, f"je_{name}_run").argtypes = (POINTER, POINTER, POINTER, POINTER)
    found.je_encoder_width.argtypes = found.je_encoder_num_patches.argtypes = (POINTER,)
    found.je_image_decoder_image_size.argtypes = (POINTER,)
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

    def use(self, num_threads: int) -> None:
        """Let at most so many threads take part from now on; others need the processors."""
        self.library.je_pool_use(self.address, num_threads)

    def peak_gops(self, repeats: int = 20_000) -> float:
        """Return how many operations a second the dot products reach from registers, in 1e9.

        Products with 4-bit weights; each counts as two operations. A call takes some 0.1 s.
        """
        began = time.perf_counter()
        operations = self.library.je_pool_multiply(self.address, repeats)
        return operations / (time.perf_counter() - began) / 1e9

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
        ("block", ctypes.c_int32),
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
            BundleError: The array is missing, of another shape or dtype, outside the file, or holds
                what is no finite number.
        """
        found = self.tensors.get(name)
        if found is None or (found.dtype, found.shape) != ("float32", shape):
            raise BundleError(f"{self._path}: no {name} float32 {shape}; export the bundle again")
        size = 4 * math.prod(shape)
        address = self._address(name, size)
        numbers = self._bytes[found.offset : found.offset + size].view(np.float32)
        if not np.isfinite(numbers).all():
            raise BundleError(
                f"{self._path}: {name} holds what is no finite number; export the bundle again"
            )
        return address

    def numbers(self, name: str, count: int) -> int:
        """Return the address of so many float32. Raises BundleError as the call does."""
        found = self.tensors.get(name)
        shape = found.shape if found is not None and math.prod(found.shape) == count else (count,)
        return self(name, shape)

    def tiles(
        self, layer: str, bits: int, inputs: int = 0, outputs: int = 0
    ) -> tuple[np.ndarray, Layout, tuple[int, int]]:
        """Return a matmul's weights in tiles, mapped; their layout; and their outputs and inputs.

        Args:
            layer: Its name.
            bits: Of the weights.
            inputs: How many inputs it must have; 0: as many as there are.
            outputs: The same of outputs.

        Raises:
            BundleError: It has others, or lies outside the file.
        """
        name = f"{layer}.weight.tiles"
        found = self.tensors.get(name)
        layout = None if found is None else LAYOUTS.get(found.dtype)
        shape = () if found is None or layout is None or layout.bits != bits else found.shape
        if len(shape) != 2 or shape != (outputs or shape[0], inputs or shape[1]):
            wanted = f"{bits}-bit {outputs or 'any'} x {inputs or 'any'}"
            raise BundleError(f"{self._path}: no {name} {wanted}; export the bundle again")
        assert layout is not None and found is not None
        size = layout.size(*shape)
        self._address(name, size)
        return self._bytes[found.offset : found.offset + size], layout, (shape[0], shape[1])

    def matrix(self, layer: str, bits: int, inputs: int = 0, outputs: int = 0) -> Matrix:
        """Return the weights of a matmul, and its bias if it has one; see ``tiles``."""
        found, layout, shape = self.tiles(layer, bits, inputs, outputs)
        bias = f"{layer}.bias"
        return Matrix(
            tiles=found.ctypes.data,
            bias=self(bias, shape[:1]) if bias in self.tensors else None,
            outputs=shape[0],
            inputs=shape[1],
            bits=layout.bits,
            block=layout.block,
        )

    def count(self, name: str) -> int:
        """Return how many numbers a tensor has; 0 if there is none of this name."""
        found = self.tensors.get(name)
        return 0 if found is None else math.prod(found.shape)

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array of float32, mapped. Raises BundleError as the call does."""
        self(name, shape)
        start = self.tensors[name].offset
        size = 4 * math.prod(shape)
        return self._bytes[start : start + size].view(np.float32).reshape(shape)

    def constant(self, component: Component, name: str) -> float:
        """Return a number that a component has. Raises BundleError if there is none."""
        if name not in component.constants:
            raise BundleError(f"{self._path}: no constant {name}; export the bundle again")
        return component.constants[name]

    def chain(self) -> list[str]:
        """Return the layers whose weights are in tiles, in the file's order."""
        tiles = [(t.offset, name) for name, t in self.tensors.items() if t.dtype in LAYOUTS]
        return [name.removesuffix(".weight.tiles") for _, name in sorted(tiles)]

    def _address(self, name: str, size: int) -> int:
        offset = self.tensors[name].offset
        if offset + size > len(self._bytes) or offset % 4:
            raise BundleError(f"{self._path}: {name} is not inside; export the bundle again")
        return int(self._bytes.ctypes.data) + offset

    def require(self, fits: bool) -> None:
        """Raise BundleError unless the sizes that the weights have fit together."""
        if not fits:
            raise BundleError(f"{self._path}: sizes do not fit together; export the bundle again")
