"""Rotary positions, the cache's new slot, and attention over a part of the cache.

A program takes one row, one head and one chunk of the cache. Lengths are on the device, so one
captured launch serves every step: chunks beyond a row's length end at once. The chunk that holds
the new slot writes it. The next kernel puts the chunks together (``combine.py``).

Shapes: R rows, N heads of queries, M heads of keys and values, H numbers per head, L slots,
C chunks, S parts. Queries, keys and values lie in this order in O = (N + 2 M) H outputs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from janus_edge.kernels.quantized import NEGLIGIBLE


@triton.jit
def summed(parts, at, part_stride, SPLITS: tl.constexpr):
    """Add the parts of some outputs, always in the same order."""
    total = tl.load(parts + at)
    for part in tl.static_range(1, SPLITS):
        total += tl.load(parts + part * part_stride + at)
    return total


@triton.jit
def turned(parts, at, part_stride, cosine, sine, HALF: tl.constexpr, SPLITS: tl.constexpr):
    """Return the lower and the upper half of a query or key, rotated to its position."""
    low = summed(parts, at, part_stride, SPLITS)
    high = summed(parts, at + HALF, part_stride, SPLITS)
    return low * cosine - high * sine, high * cosine + low * sine


@triton.jit
def kept_pair(cache, at, low, high, writes, HALF: tl.constexpr):
    """Store a key or value, in two parts, in a cache's slot; return what the cache then holds."""
    low, high = low.to(tl.float16), high.to(tl.float16)
    mask = (tl.arange(0, HALF) >= 0) & writes
    tl.store(cache + at, low, mask=mask)
    tl.store(cache + at + HALF, high, mask=mask)
    return low.to(tl.float32), high.to(tl.float32)


@triton.jit
def loaded_pair(cache, at, mask, HALF: tl.constexpr):
    """Return a block of keys or values in two parts, (slots, HALF) float32 each."""
    low = tl.load(cache + at, mask=mask[:, None], other=0.0)
    high = tl.load(cache + at + HALF, mask=mask[:, None], other=0.0)
    return low.to(tl.float32), high.to(tl.float32)


@triton.jit
def store_chunk(result, stats, program, most, total, low, high, HALF: tl.constexpr):
    """Store what a chunk gives, at the place of its program."""
    half = tl.arange(0, HALF)
    tl.store(stats + 2 * program, most)
    tl.store(stats + 2 * program + 1, total)
    tl.store(result + program * 2 * HALF + half, low)
    tl.store(result + program * 2 * HALF + HALF + half, high)


@triton.jit
def attend_kernel(
    parts,
    cosines,
    sines,
    keys,
    values,
    positions,
    lengths,
    result,
    stats,
    num_rows,
    num_slots,
    num_chunks,
    HEADS: tl.constexpr,
    SHARED: tl.constexpr,
    HALF: tl.constexpr,
    SPLITS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Attend to one chunk: a program per row, head and chunk, chunks fastest.

    Pointers are those of the tensors of ``attend``, in order. SHARED query heads share a head of
    keys and values; HALF is half a head.
    """
    chunk = tl.program_id(0) % num_chunks
    head = tl.program_id(0) // num_chunks % HEADS
    row = tl.program_id(0) // num_chunks // HEADS
    length = tl.load(lengths + row).to(tl.int32)  # the new slot
    if chunk * CHUNK <= length:
        KV_HEADS: tl.constexpr = HEADS // SHARED
        OUTPUTS: tl.constexpr = (HEADS + 2 * KV_HEADS) * 2 * HALF
        half, first, stride = tl.arange(0, HALF), row * OUTPUTS, num_rows * OUTPUTS
        angle = tl.load(positions + row) * HALF + half
        cosine, sine = tl.load(cosines + angle), tl.load(sines + angle)
        at = first + head * 2 * HALF + half
        query_low, query_high = turned(parts, at, stride, cosine, sine, HALF, SPLITS)
        scale = 1.0 / tl.sqrt(2.0 * HALF)
        query_low, query_high = query_low * scale, query_high * scale
        cache = (row * KV_HEADS + head // SHARED) * num_slots * 2 * HALF
        most, total = NEGLIGIBLE, 0.0
        sum_low, sum_high = tl.zeros((HALF,), tl.float32), tl.zeros((HALF,), tl.float32)
        if length < chunk * CHUNK + CHUNK:  # this chunk has the new slot
            at = first + (HEADS + head // SHARED) * 2 * HALF + half
            slot, writes = cache + length * 2 * HALF + half, head % SHARED == 0
            low, high = turned(parts, at, stride, cosine, sine, HALF, SPLITS)
            low, high = kept_pair(keys, slot, low, high, writes, HALF)
            most, total = tl.sum(query_low * low + query_high * high), 1.0
            at += KV_HEADS * 2 * HALF
            low = summed(parts, at, stride, SPLITS)
            high = summed(parts, at + HALF, stride, SPLITS)
            sum_low, sum_high = kept_pair(values, slot, low, high, writes, HALF)
        for start in range(0, CHUNK, BLOCK):
            slots = chunk * CHUNK + start + tl.arange(0, BLOCK)
            mask, old = slots < length, cache + slots[:, None] * 2 * HALF + half[None, :]
            lows, highs = loaded_pair(keys, old, mask, HALF)
            score = tl.sum(lows * query_low[None, :] + highs * query_high[None, :], 1)
            newest = tl.maximum(most, tl.max(tl.where(mask, score, NEGLIGIBLE)))
            weight = tl.where(mask, tl.exp(tl.where(mask, score, NEGLIGIBLE) - newest), 0.0)
            faded = tl.exp(most - newest)
            lows, highs = loaded_pair(values, old, mask, HALF)
            sum_low = sum_low * faded + tl.sum(weight[:, None] * lows, 0)
            sum_high = sum_high * faded + tl.sum(weight[:, None] * highs, 0)
            total, most = total * faded + tl.sum(weight), newest
        store_chunk(result, stats, tl.program_id(0), most, total, sum_low, sum_high, HALF)


def attend(
    parts_SRO: Tensor,
    cosines: Tensor,
    sines: Tensor,
    keys_RMLH: Tensor,
    values_RMLH: Tensor,
    positions_R: Tensor,
    lengths_R: Tensor,
    result_RNCH: Tensor,
    stats_RNC2: Tensor,
    block: int = 32,
) -> None:
    """Write the new keys and values into the caches, and attend to each chunk.

    Args:
        parts_SRO: Queries, keys and values in S parts, float32.
        cosines: Of every position, (positions, H / 2) float32.
        sines: The same.
        keys_RMLH: The cache, float16; receives a slot.
        values_RMLH: The same.
        positions_R: Position of each row's new token, int64.
        lengths_R: How many slots of each row are filled, int64; less than L.
        result_RNCH: Receives each chunk's sum of weighted values, float32.
        stats_RNC2: Receives each chunk's largest score and its sum of weights, float32. Chunks
            beyond a row's length are left as they are.
        block: Slots that are loaded at once.
    """
    rows, heads, chunks, size = result_RNCH.shape
    shared, slots = heads // keys_RMLH.shape[1], keys_RMLH.shape[2]
    chunk = triton.cdiv(slots, chunks * block) * block
    attend_kernel[(rows * heads * chunks,)](
        *(parts_SRO, cosines, sines, keys_RMLH, values_RMLH, positions_R, lengths_R),
        *(result_RNCH, stats_RNC2, rows, slots, chunks),
        HEADS=heads,
        SHARED=shared,
        HALF=size // 2,
        SPLITS=len(parts_SRO),
        CHUNK=chunk,
        BLOCK=block,
    )


def rotated(vectors: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Return vectors (R, heads, H) at their positions; cosine and sine are (R, H / 2)."""
    low, high = vectors.chunk(2, -1)
    cosine, sine = cosine[:, None], sine[:, None]
    return torch.cat((low * cosine - high * sine, high * cosine + low * sine), -1)


def reference(
    parts_SRO: Tensor,
    cosines: Tensor,
    sines: Tensor,
    keys_RMLH: Tensor,
    values_RMLH: Tensor,
    positions_R: Tensor,
    lengths_R: Tensor,
    heads: int,
) -> Tensor:
    """Write the caches as ``attend`` does; return what the heads give, (R, N H) float32."""
    rows, shared_heads, _, size = keys_RMLH.shape
    outputs = parts_SRO.sum(0).view(rows, -1, size)
    query, key, value = outputs.split((heads, shared_heads, shared_heads), 1)
    cosine, sine = cosines[positions_R], sines[positions_R]
    query, key = rotated(query, cosine, sine), rotated(key, cosine, sine)
    found = []
    for row, length in enumerate(lengths_R.tolist()):
        keys_RMLH[row, :, length], values_RMLH[row, :, length] = key[row].half(), value[row].half()
        each = [
            cache[row, :, : length + 1].float().repeat_interleave(heads // shared_heads, 0)
            for cache in (keys_RMLH, values_RMLH)
        ]
        scores = (each[0] @ query[row][:, :, None]).squeeze(2) / size**0.5
        found.append((scores.softmax(1)[:, None] @ each[1]).flatten())
    return torch.stack(found)
