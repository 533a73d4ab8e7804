"""The arithmetic of the decoder's kernels on the fake GPU (fake_cuda.py), by their references.

tests/kernels shows that the kernels themselves compute this.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from janus_edge.runtime.tiles import LAYOUTS, from_tiles

if TYPE_CHECKING:
    from tests.runtime.fake_cuda import FakeDriver

_ERF = np.vectorize(math.erf, otypes=[np.float32])


def _f32(driver: FakeDriver, address: int, *shape: int) -> np.ndarray:
    return driver.at(address, np.float32, math.prod(shape)).reshape(shape)


def _shifts(bits: int) -> np.ndarray:
    """By how many bits each input of a word is shifted: even ones, then odd ones."""
    number = np.arange(32 // bits, dtype=np.uint32)
    return (number // 2 + number % 2 * (len(number) // 2)) * bits


def _weights(
    driver: FakeDriver, words: int, scales: int, outputs: int, inputs: int, bits: int, block: int
) -> np.ndarray:
    """The weights (O, I) that words and scales stand for."""
    found = driver.at(words, np.uint32, outputs * inputs * bits // 32)
    values = found.reshape(outputs, -1, 1) >> _shifts(bits) & (1 << bits) - 1
    values = values.reshape(outputs, inputs).astype(np.float32) - (1 << (bits - 1))
    return values * _f32(driver, scales, outputs, inputs // block).repeat(block, 1)


def _normed(x: np.ndarray, norm: np.ndarray, epsilon: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(1, keepdims=True) + epsilon) * norm


def _norm(name: str, dtype: type) -> Callable[..., None]:
    def norm(driver: FakeDriver, programs: int, *given: Any) -> None:
        stream, parts, norm, kept, result, rows, epsilon, *_ = given
        width, count = driver.constants[name]["WIDTH"], driver.constants[name]["PARTS"]
        assert programs == rows
        x = _f32(driver, stream, rows, width) + _f32(driver, parts, count, rows, width).sum(0)
        _f32(driver, kept, rows, width)[:] = x
        made = driver.at(result, dtype, rows * width).reshape(rows, width)
        made[:] = _normed(x, _f32(driver, norm, width), epsilon)

    return norm


def _product(name: str, dtype: type = np.float16) -> Callable[..., None]:
    def product(driver: FakeDriver, programs: int, *given: Any) -> None:
        taken, words, scales, result, rows, outputs, *_ = given
        constants = driver.constants[name]
        inputs, splits = constants["INPUTS"], constants["SPLITS"]
        blocks, tiles = -(-outputs // constants["BLOCK"]), -(-rows // constants["ROWS"])
        assert programs == blocks * tiles * splits
        made = _f32(driver, result, splits, rows, outputs)
        made[:] = 0
        weights = _weights(driver, words, scales, outputs, inputs, 4, 128)
        x = driver.at(taken, dtype, rows * inputs).reshape(rows, inputs).astype(np.float32)
        made[-1] = x @ weights.T

    return product


def _gate_up(name: str) -> Callable[..., None]:
    def gate_up(driver: FakeDriver, programs: int, *given: Any) -> None:
        taken, words, scales, result, rows, inner, *_ = given
        constants = driver.constants[name]
        width = constants["WIDTH"]
        assert programs == -(-inner // constants["BLOCK"]) * -(-rows // constants["ROWS"])
        x = driver.at(taken, np.float16, rows * width).reshape(rows, width).astype(np.float32)
        gate, up = np.split(x @ _weights(driver, words, scales, 2 * inner, width, 4, 128).T, 2, 1)
        _f32(driver, result, rows, inner)[:] = gate / (1 + np.exp(-gate)) * up

    return gate_up


def _rotated(x: np.ndarray, cosine: np.ndarray, sine: np.ndarray) -> np.ndarray:
    low, high = np.split(x, 2, -1)
    cosine, sine = cosine[:, None], sine[:, None]
    return np.concatenate((low * cosine - high * sine, high * cosine + low * sine), -1)


def _places(
    driver: FakeDriver, positions: int, lengths: int, rows: int, part: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and slots of the rows of a part of a call."""
    span, time, first, start = part
    assert rows % span == 0 and start + span <= time
    caches = first + rows // span
    at = driver.at(positions, np.int64, caches * time).reshape(caches, time)
    after = driver.at(lengths, np.int64, caches)
    slots = np.maximum(after - time, 0)[:, None] + np.arange(time)
    own = slice(first, caches), slice(start, start + span)
    return at[own].flatten(), slots[own].flatten()


def _split(
    driver: FakeDriver, heads: int, kv_heads: int, half: int, given: Any, rows: int, part: Any
) -> Any:
    """Queries, keys, values (R, heads, H), the first two at their positions; and their slots."""
    parts, cosines, sines, _, _, positions, lengths = given
    at, slots = _places(driver, positions, lengths, rows, part)
    angles = [
        np.stack([_f32(driver, table + 4 * half * int(place), half) for place in at])
        for table in (cosines, sines)
    ]
    x = _f32(driver, parts, rows, heads + 2 * kv_heads, 2 * half)
    query, key, value = np.split(x, [heads, heads + kv_heads], 1)
    return _rotated(query, *angles), _rotated(key, *angles), value, slots


def _caches(driver: FakeDriver, given: Any, *shape: int) -> list[np.ndarray]:
    return [driver.at(each, np.float16, math.prod(shape)).reshape(shape) for each in given[3:5]]


def _write_slots(driver: FakeDriver, programs: int, *words: Any) -> None:
    given, slots, part = words[:7], words[7], words[8:12]
    constants, span = driver.constants["write_slots"], part[0]
    kv_heads, half = constants["KV_HEADS"], constants["HALF"]
    rows = programs // kv_heads
    assert programs == rows * kv_heads and rows % span == 0
    heads = constants["QUERIES"] // (2 * half)
    _, key, value, at = _split(driver, heads, kv_heads, half, given, rows, part)
    keys, values = _caches(driver, given, rows // span, kv_heads, slots, 2 * half)
    for row, place in enumerate(at):
        keys[row // span, :, place], values[row // span, :, place] = key[row], value[row]


def _attend(driver: FakeDriver, programs: int, *words: Any, name: str = "attend") -> None:
    given, (result, stats, slots, chunks), part = words[:7], words[7:11], words[11:15]
    constants, span = driver.constants[name], part[0]
    heads, half = constants["HEADS"], constants["HALF"]
    kv_heads = heads // constants["SHARED"]
    rows = programs // (heads * chunks)
    assert programs == rows * heads * chunks and chunks == -(-slots // constants["CHUNK"])
    query, key, value, at = _split(driver, heads, kv_heads, half, given, rows, part)
    keys, values = _caches(driver, given, rows // span, kv_heads, slots, 2 * half)
    if constants["WRITES"]:
        assert span == 1
        for row, place in enumerate(at):
            keys[row, :, place], values[row, :, place] = key[row], value[row]
    made = _f32(driver, result, rows, heads, chunks, 2 * half)
    sums = _f32(driver, stats, rows, heads, chunks, 2)
    for row, place in enumerate(at):
        for chunk in range(int(place) // constants["CHUNK"] + 1):
            first = chunk * constants["CHUNK"]
            part = slice(first, min(first + constants["CHUNK"], int(place) + 1))
            for head in range(heads):
                own = row // span, head // constants["SHARED"], part
                scores = keys[own].astype(np.float32) @ query[row, head] / math.sqrt(2 * half)
                weights = np.exp(scores - scores.max())
                sums[row, head, chunk] = scores.max(), weights.sum()
                made[row, head, chunk] = weights @ values[own].astype(np.float32)


def _attend_kept(driver: FakeDriver, programs: int, *words: Any) -> None:
    _attend(driver, programs, *words, name="attend_kept")


def _attend_many(driver: FakeDriver, programs: int, *words: Any) -> None:
    given, (result, slots), part = words[:7], words[7:9], words[9:13]
    constants, span = driver.constants["attend_many"], part[0]
    heads, half, shared = constants["HEADS"], constants["HALF"], constants["SHARED"]
    caches = programs // (heads * -(-span // constants["ROWS"]))
    assert programs == caches * heads * -(-span // constants["ROWS"])
    rows, kv_heads = caches * span, heads // shared
    query, _, _, at = _split(driver, heads, kv_heads, half, given, rows, part)
    keys, values = _caches(driver, given, caches, kv_heads, slots, 2 * half)
    made = driver.at(result, np.float16, rows * heads * 2 * half).reshape(rows, heads, 2 * half)
    for row, place in enumerate(at):
        for head in range(heads):
            own = row // span, head // shared, slice(int(place) + 1)
            scores = keys[own].astype(np.float32) @ query[row, head] / math.sqrt(2 * half)
            weights = np.exp(scores - scores.max())
            made[row, head] = weights @ values[own].astype(np.float32) / weights.sum()


def _merge(driver: FakeDriver, programs: int, *given: Any) -> None:
    attended, stats, positions, lengths, result, chunks = given[:6]
    constants = driver.constants["merge"]
    heads, head = constants["HEADS"], constants["HEAD"]
    rows = programs // heads
    assert programs == rows * heads
    live = _places(driver, positions, lengths, rows, given[6:10])[1] // constants["CHUNK"]
    parts = _f32(driver, attended, rows, heads, chunks, head)
    most, total = np.moveaxis(_f32(driver, stats, rows, heads, chunks, 2), -1, 0)
    made = driver.at(result, np.float16, rows * heads * head).reshape(rows, heads, head)
    for row, last in enumerate(live):
        seen = slice(int(last) + 1)
        share = np.exp(most[row, :, seen] - most[row, :, seen].max(1, keepdims=True))
        mixed = (share[..., None] * parts[row, :, seen]).sum(1)
        made[row] = mixed / (share * total[row, :, seen]).sum(1)[:, None]


def _head(name: str) -> Callable[..., None]:
    def head(driver: FakeDriver, programs: int, *given: Any) -> None:
        hidden, words, scales, bias, result, rows, outputs, *_ = given
        constants = driver.constants[name]
        width = constants["WIDTH"]
        assert programs == -(-outputs // constants["BLOCK"])
        weights = _weights(driver, words, scales, outputs, width, 8, 32)
        x = _f32(driver, hidden, rows, width) @ weights.T + _f32(driver, bias, outputs)
        if constants["GELU"]:
            x = 0.5 * x * (1 + _ERF(x / math.sqrt(2)))
        _f32(driver, result, rows, outputs)[:] = x

    return head


def _repack(name: str) -> Callable[..., None]:
    def repack(driver: FakeDriver, programs: int, *given: Any) -> None:
        tiles, same, words, scales, outputs, groups, *_ = given
        bits, block = driver.constants[name]["BITS"], driver.constants[name]["BLOCK"]
        assert tiles == same and programs == -(-outputs // 32) * groups
        inputs = groups * 512 // bits
        layout = next(each for each in LAYOUTS.values() if (each.bits, each.block) == (bits, block))
        raw = driver.at(tiles, np.uint8, layout.size(outputs, inputs))
        quantized, scales_OK = from_tiles(raw, outputs, inputs, layout)
        if bits == 4:
            quantized = np.stack((quantized & 15, quantized >> 4), -1)
        values = quantized.reshape(outputs, groups, 16, 32 // bits).astype(np.uint32)
        made = driver.at(words, np.uint32, outputs * groups * 16).reshape(outputs, groups, 16)
        made[:] = (values << _shifts(bits)).sum(3)
        _f32(driver, scales, *scales_OK.shape)[:] = scales_OK

    return repack


def interpreted(spec: Any) -> Callable[..., None]:
    """A kernel itself, in Triton's interpreter, with the arguments that the launch gave it."""
    types = {"*fp32": np.float32, "*fp16": np.float16, "*i64": np.int64, "*i32": np.int32}

    def run(driver: FakeDriver, programs: int, *given: Any) -> None:
        values = []
        for value, kind in zip(given, spec.arguments.values(), strict=False):  # then, scratch
            if kind.startswith("*"):
                dtype = types.get(kind, np.uint8)
                size = np.dtype(dtype).itemsize
                start, block = next(
                    (start, block)
                    for start, block in driver.memory.items()
                    if start <= value < start + block.nbytes
                )
                part = block[value - start :]
                value = torch.from_numpy(part[: len(part) // size * size].view(dtype))
            values.append(value)
        spec.kernel[(programs,)](*values, **spec.constants)

    return run


KERNELS: dict[str, Callable[..., None]] = {
    "norm_kernel": _norm("norm", np.float16),
    "last_norm_kernel": _norm("last_norm", np.float32),
    "qkv_kernel": _product("qkv"),
    "attend_kernel": _attend,
    "attend_kept_kernel": _attend_kept,
    "write_slots_kernel": _write_slots,
    "merge_kernel": _merge,
    "output_kernel": _product("output"),
    "gate_up_kernel": _gate_up("gate_up"),
    "down_kernel": _product("down", np.float32),
    "norm_many_kernel": _norm("norm_many", np.float16),
    "last_norm_many_kernel": _norm("last_norm_many", np.float32),
    "qkv_many_kernel": _product("qkv_many"),
    "attend_many_kernel": _attend_many,
    "output_many_kernel": _product("output_many"),
    "gate_up_many_kernel": _gate_up("gate_up_many"),
    "down_many_kernel": _product("down_many", np.float32),
    **{f"{name}_kernel": _head(name) for name in ("head_hidden", "head_logits", "text_logits")},
    **{f"{name}_kernel": _repack(name) for name in ("repack4", "repack8")},
}
