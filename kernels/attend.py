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
        HEAD: tl.constexpr = 2 * HALF
        OUTPUTS: tl.constexpr = (HEADS + 2 * (HEADS // SHARED)) * HEAD
        half = tl.arange(0, HALF)
        position, group = tl.load(positions + row), head // SHARED
        cosine = tl.load(cosines + position * HALF + half)
        sine = tl.load(sines + position * HALF + half)
        first, stride = row * OUTPUTS, num_rows * OUTPUTS
        at = first + head * HEAD + half
        low = summed(parts, at, stride, SPLITS)
        high = summed(parts, at + HALF, stride, SPLITS)
        scale = 1.0 / tl.sqrt(1.0 * HEAD)
        query_low = (low * cosine - high * sine) * scale
        query_high = (high * cosine + low * sine) * scale
        cache = (row * (HEADS // SHARED) + group) * num_slots * HEAD
        most, total = NEGLIGIBLE, 0.0
        sum_low = tl.zeros((HALF,), tl.float32)
        sum_high = tl.zeros((HALF,), tl.float32)
        if length < chunk * CHUNK + CHUNK:  # this chunk has the new slot
            at = first + (HEADS + group) * HEAD + half
            low = summed(parts, at, stride, SPLITS)
            high = summed(parts, at + HALF, stride, SPLITS)
            key_low = (low * cosine - high * sine).to(tl.float16)
            key_high = (high * cosine + low * sine).to(tl.float16)
            at += (HEADS // SHARED) * HEAD
            sum_low = summed(parts, at, stride, SPLITS).to(tl.float16)
            sum_high = summed(parts, at + HALF, stride, SPLITS).to(tl.float16)
            if head % SHARED == 0:
                at = cache + length * HEAD + half
                tl.store(keys + at, key_low)
                tl.store(keys + at + HALF, key_high)
                tl.store(values + at, sum_low)
                tl.store(values + at + HALF, sum_high)
            sum_low, sum_high = sum_low.to(tl.float32), sum_high.to(tl.float32)
            most = tl.sum(query_low * key_low.to(tl.float32) + query_high * key_high.to(tl.float32))
            total = 1.0
        for start in range(0, CHUNK, BLOCK):
            slot = chunk * CHUNK + start + tl.arange(0, BLOCK)
            mask = slot < length
            old = cache + slot[:, None] * HEAD + half[None, :]
            keys_low = tl.load(keys + old, mask=mask[:, None], other=0.0).to(tl.float32)
            keys_high = tl.load(keys + old + HALF, mask=mask[:, None], other=0.0).to(tl.float32)
            score = tl.sum(keys_low * query_low[None, :] + keys_high * query_high[None, :], 1)
            score = tl.where(mask, score, NEGLIGIBLE)
            newest = tl.maximum(most, tl.max(score))
            weight = tl.where(mask, tl.exp(score - newest), 0.0)
            faded = tl.where(total > 0.0, tl.exp(most - newest), 0.0)
            values_low = tl.load(values + old, mask=mask[:, None], other=0.0).to(tl.float32)
            values_high = tl.load(values + old + HALF, mask=mask[:, None], other=0.0).to(tl.float32)
            sum_low = sum_low * faded + tl.sum(weight[:, None] * values_low, 0)
            sum_high = sum_high * faded + tl.sum(weight[:, None] * values_high, 0)
            total = total * faded + tl.sum(weight)
            most = newest
        at = (row * HEADS + head) * num_chunks + chunk
        tl.store(stats + 2 * at, most)
        tl.store(stats + 2 * at + 1, total)
        tl.store(result + at * HEAD + half, sum_low)
        tl.store(result + at * HEAD + HALF + half, sum_high)


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
