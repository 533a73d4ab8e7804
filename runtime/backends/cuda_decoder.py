"""The decoder on an NVIDIA GPU by our kernels: 4-bit weights, keys and values in float16.

It has the inputs and outputs of a bundle's decoder graph, but for the type of keys and values. A
pass computes up to 16 positions: one of each row, or several of some rows. Prompts and steps of a
flow take passes of up to 640, by kernels of their own (cuda_passes.py).

Shapes: R rows, T positions, D width, N heads, H numbers per head, S slots, C chunks of slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from janus_edge.runtime.backends import Arrays, Buffers
from janus_edge.runtime.backends.cubins import Gpu
from janus_edge.runtime.backends.cuda_passes import (
    MANY,
    MOST_MANY,
    MOST_ROWS,
    Pass,
    has_many,
    passes_of,
)
from janus_edge.runtime.backends.cuda_weights import DeviceWeights, Words
from janus_edge.runtime.backends.on_device import EnqueueCall, bound
from janus_edge.runtime.cuda import DeviceArray
from janus_edge.runtime.kv_cache import KVCache, past_names
from janus_edge.runtime.sizes import Sizes

CACHE_TYPE = "float16"  # of keys and values
_ATTENTION = ("attend", "attend_kept", f"attend{MANY}", "write_slots")
_IN_PARTS = ("output", "down")  # what they leave is added by the next norm
_MOST_PARTS = 64  # of a product
_GROUP = 128  # inputs that a product with 4-bit weights takes at once
WHAT = "the decoder"  # in the error for memory that is short
Launch = tuple[str, int, tuple[Any, ...]]  # kernel, programs, arguments


@dataclass(frozen=True)
class _Layer:
    """Weights of a layer."""

    norm: DeviceArray
    qkv: Words
    output: Words
    mlp_norm: DeviceArray
    gate_up: Words
    down: Words


@dataclass(frozen=True)
class _Scratch:
    """Memory by which the kernels of a pass hand on what they compute."""

    streams: tuple[DeviceArray, DeviceArray]
    nothing: DeviceArray  # the parts that the first norm adds
    parts: DeviceArray
    normed: DeviceArray  # float16
    qkv: DeviceArray
    attended: DeviceArray | None  # chunks; None where rows are many
    stats: DeviceArray | None
    merged: DeviceArray  # float16
    inner: DeviceArray


class CudaDecoder:
    """The decoder as an ``Engine``; its calls can also be enqueued and captured."""

    def __init__(self, gpu: Gpu, found: DeviceWeights, sizes: Sizes) -> None:
        """Copy the weights to the GPU.

        Args:
            gpu: The GPU and the bundle's kernels.
            found: The decoder's weights.
            sizes: The sizes of the bundle.

        Raises:
            BundleError: A weight is missing, or the kernels were compiled for other sizes.
            DeviceError: The GPU has no room, or the bundle has no kernels for it.
        """
        self._gpu, self._sizes = gpu, sizes
        width = sizes.hidden_size
        self._layers = [_layer(found, sizes, f"layers.{i}") for i in range(sizes.num_layers)]
        self._norm_weights = found.vector("hidden.weight", (width,))
        angles = (sizes.max_length, sizes.head_dim // 2)
        self._angles = found.vector("cos", angles), found.vector("sin", angles)
        first = self._layers[0]
        self._heads, rest = divmod(first.qkv.outputs, sizes.head_dim)
        self._heads -= 2 * sizes.num_kv_heads
        found.require(rest == 0 and self._heads > 0 and self._heads % sizes.num_kv_heads == 0)
        self._inner = first.down.inputs
        for each in self._layers:  # whose sizes the first one stands for
            found.require(each.qkv.outputs == first.qkv.outputs)
            found.require(each.gate_up.outputs == 2 * each.down.inputs == 2 * self._inner)
        self._parts = gpu.kernels.constant("output", "SPLITS")
        found.require(self._parts <= _MOST_PARTS)
        self._chunk = gpu.kernels.constant("attend", "CHUNK")
        self._of_many: _Scratch | None = None
        self._check()

    def _check(self) -> None:
        """Raise BundleError for kernels that were compiled for other sizes."""
        width, sizes = self._sizes.hidden_size, self._sizes
        shared = self._heads // sizes.num_kv_heads
        required = {
            "norm": {"WIDTH": width, "PARTS": self._parts},
            "last_norm": {"WIDTH": width, "PARTS": self._parts},
            "qkv": {"INPUTS": width, "SPLITS": 1},
            "attend": {"HEADS": self._heads, "SHARED": shared},
            "attend_kept": {"HEADS": self._heads, "SHARED": shared, "CHUNK": self._chunk},
            "write_slots": {
                "KV_HEADS": sizes.num_kv_heads,
                "QUERIES": self._heads * sizes.head_dim,
            },
            "merge": {"HEADS": self._heads, "HEAD": sizes.head_dim, "CHUNK": self._chunk},
            "output": {"INPUTS": self._heads * sizes.head_dim, "SPLITS": self._parts},
            "gate_up": {"WIDTH": width},
            "down": {"INPUTS": self._inner, "SPLITS": self._parts},
        }
        for name in ("norm", "last_norm", "qkv", "attend", "output", "gate_up", "down"):
            alone = {"PARTS": 1, "SPLITS": 1}  # many rows are not divided by inputs
            required[name + MANY] = {
                key: alone.get(key, value) for key, value in required[name].items()
            }
        for name, key, value in (
            *((name, key, v) for name, each in required.items() for key, v in each.items()),
            *((name, "HALF", sizes.head_dim // 2) for name in _ATTENTION),
        ):
            self._gpu.kernels.require(name, key, value)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """Return cleared memory on the device."""
        return self._gpu.cuda.zeros(shape, dtype, "the decoder's keys and values")

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Return all outputs in the manifest's order, in new arrays."""
        layers = self._sizes.num_layers
        caches = KVCache.of(
            layers, (inputs[name].astype(CACHE_TYPE) for name in past_names(layers))
        )
        outputs = {"hidden": np.empty_like(inputs["embeds"]), **caches.present}
        self.bind({**inputs, **caches.past}, outputs)()
        return list(outputs.values())

    def bind(
        self, inputs: Buffers, outputs: Buffers, *, often: bool = True, last_only: bool = False
    ) -> Callable[[], None]:
        """Return a call on fixed arrays; it returns when their results are there."""
        prepare = partial(self.prepare_enqueue, often=often)
        return bound(self._gpu.cuda, WHAT, prepare, inputs, outputs)

    def prepare_enqueue(
        self,
        inputs: Mapping[str, DeviceArray],
        outputs: Mapping[str, DeviceArray],
        *,
        often: bool = True,
    ) -> EnqueueCall:
        """Return a call that sends the work to the stream and does not wait for it.

        Keys and values are updated in place. Prompts are what is not computed often.
        """
        caches = [inputs[name] for name in past_names(self._sizes.num_layers)]
        rows, time = inputs["embeds"].shape[:2]
        is_many = has_many(time, is_prompt=not often)
        if is_many:  # works on a stream follow each other, so that all can share the memory
            self._of_many = self._of_many or self._scratch(MOST_MANY, 1, None)
            scratch = self._of_many
        else:
            chunks = -(-caches[0].shape[2] // self._chunk)
            scratch = self._scratch(min(MOST_ROWS, rows * time), self._parts, chunks)
        passes = passes_of(inputs, outputs["hidden"], caches, is_many=is_many)
        steps = [self._step(each, scratch) for each in passes]
        return EnqueueCall([send for each in steps for send in each], (inputs, outputs, self))

    def _scratch(self, rows: int, parts: int, chunks: int | None) -> _Scratch:
        """Return memory for passes of so many rows at most."""
        width, head = self._sizes.hidden_size, self._sizes.head_dim

        def new(*shape: int, kind: str = "float32") -> DeviceArray:
            return self._gpu.cuda.array(shape, kind, WHAT)

        return _Scratch(
            streams=(new(rows, width), new(rows, width)),
            nothing=self._gpu.cuda.zeros((parts, rows, width), "float32", WHAT),
            parts=new(parts, rows, width),
            normed=new(rows, width, kind="float16"),
            qkv=new(rows, self._layers[0].qkv.outputs),
            attended=None if chunks is None else new(rows, self._heads, chunks, head),
            stats=None if chunks is None else new(rows, self._heads, chunks, 2),
            merged=new(rows, self._heads * head, kind="float16"),
            inner=new(rows, self._inner),
        )

    def _step(self, each: Pass, scratch: _Scratch) -> list[Callable[[], None]]:
        """Return what a pass sends, in order."""
        kernels = self._gpu.kernels
        return [
            partial(kernels.launch, name, programs, *values, overlaps=index > 0)
            for index, (name, programs, values) in enumerate(self._launches(each, scratch))
        ]

    def _launches(self, each: Pass, scratch: _Scratch) -> Iterator[Launch]:
        """Yield the launches of a pass."""
        stream, parts = each.embeds, scratch.nothing
        for index, layer in enumerate(self._layers):
            keys_values = each.caches[2 * index : 2 * index + 2]
            yield self._norm(each, stream, parts, layer.norm, scratch, 0)
            yield self._product(each, "qkv", scratch.normed, layer.qkv, scratch.qkv)
            yield from self._attention(each, scratch, keys_values)
            stream, parts = scratch.streams[0], scratch.parts
            yield self._product(each, "output", scratch.merged, layer.output, parts)
            yield self._norm(each, stream, parts, layer.mlp_norm, scratch, 1)
            yield self._product(each, "gate_up", scratch.normed, layer.gate_up, scratch.inner)
            stream = scratch.streams[1]
            yield self._product(each, "down", scratch.inner, layer.down, parts)
        values = (stream, parts, self._norm_weights, scratch.streams[0], each.hidden)
        rest = each.rows, self._sizes.norm_epsilon
        yield f"last_norm{each.ending}", each.rows, (*values, *rest)

    def _norm(
        self,
        each: Pass,
        stream: DeviceArray,
        parts: DeviceArray,
        weights: DeviceArray,
        scratch: _Scratch,
        kept: int,
    ) -> Launch:
        """Return the launch that norms a stream, and keeps it as ``streams[kept]``."""
        values = (stream, parts, weights, scratch.streams[kept], scratch.normed)
        rest = each.rows, self._sizes.norm_epsilon
        return f"norm{each.ending}", each.rows, (*values, *rest)

    def _attention(
        self, each: Pass, scratch: _Scratch, keys_values: list[DeviceArray]
    ) -> Iterator[Launch]:
        slots, rows, heads = keys_values[0].shape[2], each.rows, self._heads
        places = each.positions, each.lengths
        given = (scratch.qkv, *self._angles, *keys_values, *places)
        if not each.is_step:
            programs = rows * self._sizes.num_kv_heads
            yield "write_slots", programs, (*given, slots, *each.part)
        if scratch.attended is None or scratch.stats is None:
            tile = self._gpu.kernels.constant(f"attend{MANY}", "ROWS")
            programs = rows // each.span * heads * -(-each.span // tile)
            yield f"attend{MANY}", programs, (*given, scratch.merged, slots, *each.part)
            return
        chunks, chunked = -(-slots // self._chunk), (scratch.attended, scratch.stats)
        name, programs = "attend" if each.is_step else "attend_kept", rows * heads * chunks
        yield name, programs, (*given, *chunked, slots, chunks, *each.part)
        yield "merge", rows * heads, (*chunked, *places, scratch.merged, chunks, *each.part)

    def _product(
        self, each: Pass, name: str, given: DeviceArray, weights: Words, made: DeviceArray
    ) -> Launch:
        """Return the launch of a product: a program per tile of rows, block of outputs and part."""
        kernels, kernel = self._gpu.kernels, name + each.ending
        outputs = self._inner if name == "gate_up" else weights.outputs  # gate and up are a pair
        programs = -(-outputs // kernels.constant(kernel, "BLOCK"))
        programs *= -(-each.rows // kernels.constant(kernel, "ROWS"))
        if name in _IN_PARTS:
            programs *= kernels.constant(kernel, "SPLITS")
        values = (given, weights.words, weights.scales, made, each.rows, outputs)
        return kernel, programs, values


def _layer(found: DeviceWeights, sizes: Sizes, at: str) -> _Layer:
    """Copy a layer's weights."""
    width, shared = sizes.hidden_size, sizes.num_kv_heads * sizes.head_dim
    names = [f"{at}.{name}_proj" for name in ("k", "v", "gate", "up")]
    key, value, gate, up = (found.outputs(name, 4, width) for name in names)
    found.require(key == value == shared and gate == up)
    gate_up = found.words([f"{at}.gate_proj", f"{at}.up_proj"], 4, width, multiple=_GROUP)
    qkv = found.words([f"{at}.{name}_proj" for name in "qkv"], 4, width)
    return _Layer(
        norm=found.vector(f"{at}.input_layernorm.weight", (width,)),
        qkv=qkv,
        output=found.words([f"{at}.o_proj"], 4, qkv.outputs - 2 * shared, width),
        mlp_norm=found.vector(f"{at}.post_attention_layernorm.weight", (width,)),
        gate_up=gate_up,
        down=found.words([f"{at}.down_proj"], 4, 0, width),
    )
