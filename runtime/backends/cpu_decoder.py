"""The decoder by the CPU kernels (native/cpu): 4-bit weights in blocks of 128, mapped.

It has the inputs and outputs of a bundle's decoder graph.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np

from janus_edge.runtime.backends import Arrays
from janus_edge.runtime.backends.cpu_library import POINTER, Matrix, Pool, Weights
from janus_edge.runtime.kv_cache import PAST, KVCache, past_names, present_names
from janus_edge.runtime.manifest import Component
from janus_edge.runtime.sizes import Sizes

_NORMS = ("input_layernorm", "post_attention_layernorm")
_DTYPE, _BITS = "int4_tiles", 4
_PRODUCTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, POINTER) for name in (*_NORMS, "key_scales", "value_scales")),
        *((name, Matrix) for name in _PRODUCTS),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("num_layers", "width", "num_heads")),
        *((name, ctypes.c_int32) for name in ("num_kv_heads", "head_dim")),
        ("epsilon", ctypes.c_float),
        *((name, POINTER) for name in ("cos", "sin", "norm", "layers")),
    )


def runs(component: Component, sizes: Sizes) -> bool:
    """Return True if the kernels fit: weights in tiles, int8 caches, heads in steps of 32."""
    is_tiled = any(each.dtype == _DTYPE for each in component.tensors.values())
    has_bytes = all(each.dtype == "int8" for each in component.inputs if each.name.startswith(PAST))
    return is_tiled and has_bytes and sizes.head_dim in range(32, 257, 32)


class CpuDecoder:
    """The decoder as an ``Engine``."""

    def __init__(self, folder: Path, component: Component, sizes: Sizes, pool: Pool) -> None:
        """Map the weights and open the decoder.

        Args:
            folder: The bundle's folder.
            component: The decoder in the manifest.
            sizes: The sizes of the bundle.
            pool: The threads.

        Raises:
            BundleError: A weight is missing or lies outside the file.
        """
        self._pool, self._sizes, self._library = pool, sizes, pool.library
        self._weights = weights = Weights(folder, component)
        width, head = sizes.hidden_size, sizes.head_dim
        shared = sizes.num_kv_heads * head
        # they say themselves how many
        queries = weights.matrix("layers.0.q_proj", _BITS, width).outputs
        inner = weights.matrix("layers.0.gate_proj", _BITS, width).outputs
        inputs = {"o_proj": queries, "down_proj": inner}
        outputs = {"q_proj": queries, "up_proj": inner, "gate_proj": inner}
        outputs |= {"k_proj": shared, "v_proj": shared}
        self._layers = (_Layer * sizes.num_layers)()
        for index, layer in enumerate(self._layers):
            at = f"layers.{index}"
            for name in _NORMS:
                setattr(layer, name, weights(f"{at}.{name}.weight", (width,)))
            layer.key_scales = weights(f"k_{index}.scale", (shared,))
            layer.value_scales = weights(f"v_{index}.scale", (shared,))
            for name in _PRODUCTS:
                given, made = inputs.get(name, width), outputs.get(name, width)
                setattr(layer, name, weights.matrix(f"{at}.{name}", _BITS, given, made))
        heads = self._layers[0].q_proj.outputs // head
        weights.require(heads * head == self._layers[0].q_proj.outputs)
        weights.require(heads > 0 and heads % sizes.num_kv_heads == 0)
        angles = (sizes.max_length, head // 2)
        self._model = _Model(
            num_layers=sizes.num_layers,
            width=width,
            num_heads=heads,
            num_kv_heads=sizes.num_kv_heads,
            head_dim=head,
            epsilon=sizes.norm_epsilon,
            cos=weights("cos", angles),
            sin=weights("sin", angles),
            norm=weights("hidden.weight", (width,)),
            layers=ctypes.addressof(self._layers),
        )
        self._decoder = self._library.je_decoder_open(ctypes.addressof(self._model), pool.address)
        if not self._decoder:
            raise MemoryError("no memory for a decoder")

    def __del__(self) -> None:
        """Close the decoder."""
        if getattr(self, "_decoder", None):
            self._library.je_decoder_close(self._decoder)

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Return all outputs in the manifest's order, in new arrays."""
        layers = self._sizes.num_layers
        caches = KVCache.of(layers, (inputs[name].copy() for name in past_names(layers)))
        outputs = {"hidden": np.empty_like(inputs["embeds"]), **caches.present}
        self.bind(inputs, outputs)()
        return list(outputs.values())

    def zeros(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return a cleared array."""
        return np.zeros(shape, dtype)

    def bind(
        self, inputs: Arrays, outputs: Arrays, *, often: bool = True, last_only: bool = False
    ) -> Callable[[], None]:
        """Return a call that reads and writes these arrays where they are.

        A KV cache is updated in place; if past and present are two arrays, it is first copied.
        """
        given = [inputs[name] for name in ("embeds", "positions", "lengths")]
        past = [inputs[name] for name in past_names(self._sizes.num_layers)]
        present = [outputs[name] for name in present_names(self._sizes.num_layers)]
        hidden = outputs["hidden"]
        moved = [(a, b) for a, b in zip(past, present, strict=True) if a is not b]
        assert all(array.flags.c_contiguous for array in (*given, *present, hidden))
        rows, time = given[0].shape[:2]
        caches = (POINTER * len(present))(*(array.ctypes.data for array in present))
        addresses = [array.ctypes.data for array in given]
        words = (self._decoder, rows, time, *addresses, present[0].shape[2], caches)

        def call() -> None:
            for source, target in moved:
                target[:] = source
            _check(given[1], given[2], time, present[0].shape[2], self._sizes.max_length)
            if self._library.je_decoder_run(*words, hidden.ctypes.data, last_only):
                raise MemoryError(f"no memory for {rows} rows of {time} positions")

        return call


def _check(positions: np.ndarray, lengths: np.ndarray, time: int, cache: int, angles: int) -> None:
    """Raise ValueError for a write outside the caches or a read outside the tables of angles."""
    if (
        max(time, lengths.max()) > cache
        or lengths.min() < 0
        or positions.max() >= angles
        or positions.min() < 0
    ):
        raise ValueError(
            f"positions to {positions.max()} and lengths to {lengths.max()} of {cache}"
        )
