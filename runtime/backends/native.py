"""Our own decoder (native/decoder): 4-bit weights from the mapped file, without a graph.

It takes what a bundle's graph of the decoder takes, where the processor has the instructions and
the package was built with a C compiler.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np

from janus_edge.runtime.backends import Arrays
from janus_edge.runtime.errors import BundleError
from janus_edge.runtime.manifest import Component, Sizes

_POINTER = ctypes.c_void_p
_VERSION = 1  # JE_DECODER_VERSION of native/decoder/decoder.h, which the structures below mirror


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("levels", _POINTER),
        ("scales", _POINTER),
        ("outputs", ctypes.c_int32),
        ("inputs", ctypes.c_int32),
    )


_NORMS = ("input_layernorm", "post_attention_layernorm")
_PRODUCTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in (*_NORMS, "key_scales", "value_scales")),
        *((name, _Matrix) for name in _PRODUCTS),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("num_layers", "width", "num_heads")),
        *((name, ctypes.c_int32) for name in ("num_kv_heads", "head_dim")),
        ("epsilon", ctypes.c_float),
        *((name, _POINTER) for name in ("cos", "sin", "norm", "layers")),
    )


@cache
def _library() -> ctypes.CDLL | None:
    """The compiled decoder; None where the package has none, or one of other sources than this
    file, or the processor cannot run it."""
    for suffix in EXTENSION_SUFFIXES:
        try:
            library = ctypes.CDLL(str(Path(__file__).with_name(f"_decoder{suffix}")))
        except OSError:
            continue
        library.je_decoder_open.restype = _POINTER
        library.je_decoder_open.argtypes = (_POINTER, ctypes.c_int32)
        library.je_decoder_close.argtypes = (_POINTER,)
        library.je_decoder_run.argtypes = (
            *(_POINTER, ctypes.c_int32, ctypes.c_int32, _POINTER, _POINTER, _POINTER),
            *(ctypes.c_int32, _POINTER, _POINTER),
        )
        if library.je_decoder_runs_here() == _VERSION:
            return library
    return None


def runs(component: Component, sizes: Sizes) -> bool:
    """Whether this decoder of a bundle can be opened here: the loops take heads by 32 channels and
    outputs by four."""
    products = [each for each in component.tensors.values() if each.dtype == "uint8"]
    fits = sizes.head_dim in range(32, 257, 32) and all(p.shape[0] % 4 == 0 for p in products)
    return bool(products) and fits and _library() is not None


def load(folder: Path, component: Component, sizes: Sizes, num_threads: int) -> NativeDecoder:
    """Map a decoder's weights. Raises BundleError if one is missing or lies outside the file."""
    library = _library()
    assert library is not None and component.data is not None
    return NativeDecoder(
        library, _Weights(folder / component.data.file, component), sizes, num_threads
    )


class _Weights:
    """The arrays of a file, by name; mapped, so that only what is used is read."""

    def __init__(self, path: Path, component: Component) -> None:
        self._path, self._tensors = path, component.tensors
        self._bytes = np.memmap(path, np.uint8, "r")

    def __call__(self, name: str, dtype: str, shape: tuple[int, ...]) -> int:
        """Address of an array, which must have this shape."""
        found = self._tensors.get(name)
        if found is None or (found.dtype, found.shape) != (dtype, shape):
            raise BundleError(f"{self._path}: no {name} {dtype} {shape}; export the bundle again")
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if found.offset + size > len(self._bytes) or found.offset % 4:
            raise BundleError(f"{self._path}: {name} is not inside; export the bundle again")
        return int(self._bytes.ctypes.data) + found.offset

    def matrix(self, name: str, inputs: int) -> _Matrix:
        """Weights in blocks of 128; how many outputs, they say themselves."""
        levels, scales = f"{name}.weight.levels", f"{name}.weight.scales"
        blocks = -(-inputs // 128)
        outputs = self._tensors[levels].shape[0] if levels in self._tensors else 0
        return _Matrix(
            self(levels, "uint8", (outputs, blocks, 64)),
            self(scales, "float32", (outputs, blocks)),
            outputs,
            inputs,
        )


class NativeDecoder:
    """See ``Engine``; its one component is the decoder."""

    def __init__(
        self, library: ctypes.CDLL, weights: _Weights, sizes: Sizes, num_threads: int
    ) -> None:
        self._library, self._weights, self._sizes = library, weights, sizes
        width, head = sizes.hidden_size, sizes.head_dim
        shared = sizes.num_kv_heads * head
        self._layers = (_Layer * sizes.num_layers)()
        for index, layer in enumerate(self._layers):
            at = f"layers.{index}"
            for name in _NORMS:
                setattr(layer, name, weights(f"{at}.{name}.weight", "float32", (width,)))
            layer.key_scales = weights(f"k_{index}.scale", "float32", (shared,))
            layer.value_scales = weights(f"v_{index}.scale", "float32", (shared,))
            queries = inner = 0
            for name in _PRODUCTS:
                inputs = {"o_proj": queries, "down_proj": inner}.get(name, width)
                matrix = weights.matrix(f"{at}.{name}", inputs)
                setattr(layer, name, matrix)
                queries = matrix.outputs if name == "q_proj" else queries
                inner = matrix.outputs if name == "up_proj" else inner
        turns = (sizes.max_length, head // 2)
        self._model = _Model(
            num_layers=sizes.num_layers,
            width=width,
            num_heads=self._layers[0].q_proj.outputs // head,
            num_kv_heads=sizes.num_kv_heads,
            head_dim=head,
            epsilon=sizes.norm_epsilon,
            cos=weights("cos", "float32", turns),
            sin=weights("sin", "float32", turns),
            norm=weights("hidden.weight", "float32", (width,)),
            layers=ctypes.addressof(self._layers),
        )
        threads = num_threads or os.cpu_count() or 1
        self._decoder = library.je_decoder_open(ctypes.addressof(self._model), threads)
        if not self._decoder:
            raise MemoryError(f"no memory or no thread left for {threads} threads; ask for fewer")

    def __del__(self) -> None:
        if getattr(self, "_decoder", None):
            self._library.je_decoder_close(self._decoder)

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """All outputs in the manifest's order, in new arrays."""
        names = [name.removeprefix("past_") for name in inputs if name.startswith("past_")]
        outputs = {"hidden": np.empty_like(inputs["embeds"])}
        outputs |= {f"present_{name}": inputs[f"past_{name}"].copy() for name in names}
        self.bind(inputs, outputs)()
        return list(outputs.values())

    def bind(self, inputs: Arrays, outputs: Arrays) -> Callable[[], None]:
        """A call that reads and writes these arrays where they are; caches only in place, or from
        past to present."""
        given = [inputs[name] for name in ("embeds", "positions", "lengths")]
        names = [f"{part}_{i}" for i in range(self._sizes.num_layers) for part in "kv"]
        past = [inputs[f"past_{name}"] for name in names]
        present = [outputs[f"present_{name}"] for name in names]
        hidden = outputs["hidden"]
        moved = [(a, b) for a, b in zip(past, present, strict=True) if a is not b]
        assert all(array.flags.c_contiguous for array in (*given, *present, hidden))
        rows, time = given[0].shape[:2]
        caches = (_POINTER * len(present))(*(array.ctypes.data for array in present))
        addresses = [array.ctypes.data for array in given]
        words = (self._decoder, rows, time, *addresses, present[0].shape[2], caches)

        def call() -> None:
            for source, target in moved:
                target[:] = source
            _check(given[1], given[2], present[0].shape[2], self._sizes.max_length)
            if self._library.je_decoder_run(*words, hidden.ctypes.data):
                raise MemoryError(f"no memory for {rows} rows of {time} positions")

        return call


def _check(positions: np.ndarray, lengths: np.ndarray, cache: int, turns: int) -> None:
    """Never write outside the caches, never read outside the tables."""
    if lengths.max() > cache or positions.max() >= turns or positions.min() < 0:
        raise ValueError(
            f"positions to {positions.max()} and lengths to {lengths.max()} of {cache}"
        )
