"""Rotary positions, the cache's new slots, and attention over a part of the cache.

A program takes one row, one head and one chunk of the cache. Positions are on the device, so one
captured launch serves every step: chunks beyond a row's slot end at once. The next kernel puts
the chunks together (``merge.py``).

In a step each row has a cache of its own, and the chunk that holds the new slot writes it. Where
several rows are positions of one sequence, ``write_slots`` writes all of them before.

Shapes: R rows, Q caches, P = R / Q positions per cache, N heads of queries, M heads of keys and
values, H numbers per head, L slots, C chunks. Queries, keys and values lie in this order in
O = (N + 2 M) H outputs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from janus_edge.kernels.overlap import wait_for_previous
from janus_edge.kernels.quantized import NEGLIGIBLE
from janus_edge.kernels.write_slots import kept_pair, place_of, turned, write_slots


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
    outputs,
    cosines,
    sines,
    keys,
    values,
    positions,
    lengths,
    result,
    stats,
    num_slots,
    num_chunks,
    span,
    time,
    first,
    start,
    HEADS: tl.constexpr,
    SHARED: tl.constexpr,
    HALF: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    WRITES: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """Attend to one chunk: a program per row, head and chunk, chunks fastest.

    Pointers are those of the tensors of ``attend``, in order. SHARED query heads share a head of
    keys and values; HALF is half a head. With WRITES each row writes its slot, and span is 1;
    without, ``span`` rows after another share a cache that holds their slots already.
    """
    wait_for_previous(OVERLAPS)
    chunk, unit = tl.program_id(0) % num_chunks, tl.program_id(0) // num_chunks
    head, row = unit % HEADS, unit // HEADS
    position, slot = place_of(positions, lengths, row, span, time, first, start)
    length = slot if WRITES else slot + 1
    if chunk * CHUNK <= slot:
        KV_HEADS: tl.constexpr = HEADS // SHARED
        OUTPUTS: tl.constexpr = (HEADS + 2 * KV_HEADS) * 2 * HALF
        half, own = tl.arange(0, HALF), row * OUTPUTS
        angle, at = position * HALF + half, own + head * 2 * HALF + half
        cosine, sine = tl.load(cosines + angle), tl.load(sines + angle)
        query_low, query_high = turned(outputs, at, cosine, sine, HALF)
        query_low /= tl.sqrt(2.0 * HALF)
        query_high /= tl.sqrt(2.0 * HALF)
        cache = (row // span * KV_HEADS + head // SHARED) * num_slots * 2 * HALF
        most, total = NEGLIGIBLE, 0.0
        sum_low, sum_high = tl.zeros((HALF,), tl.float32), tl.zeros((HALF,), tl.float32)
        if WRITES and slot < chunk * CHUNK + CHUNK:  # this chunk has the new slot
            at = own + (HEADS + head // SHARED) * 2 * HALF + half
            new, writes = cache + slot * 2 * HALF + half, head % SHARED == 0
            low, high = turned(outputs, at, cosine, sine, HALF)
            low, high = kept_pair(keys, new, low, high, writes, HALF)
            most, total = tl.sum(query_low * low + query_high * high), 1.0
            at += KV_HEADS * 2 * HALF
            low, high = tl.load(outputs + at), tl.load(outputs + at + HALF)
            sum_low, sum_high = kept_pair(values, new, low, high, writes, HALF)
        for begin in range(0, CHUNK, BLOCK):
            slots = chunk * CHUNK + begin + tl.arange(0, BLOCK)
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
    outputs_RO: Tensor,
    cosines: Tensor,
    sines: Tensor,
    keys_QMLH: Tensor,
    values_QMLH: Tensor,
    positions_R: Tensor,
    lengths_Q: Tensor,
    result_RNCH: Tensor,
    stats_RNC2: Tensor,
    block: int = 32,
) -> None:
    """Write the new keys and values into the caches, and attend to each chunk.

    Several positions of a sequence are rows after another: R is then a multiple of Q.

    Args:
        outputs_RO: Queries, keys and values, float32.
        cosines: Of every position, (positions, H / 2) float32.
        sines: The same.
        keys_QMLH: The cache, float16; receives a slot of each row.
        values_QMLH: The same.
        positions_R: Position of each row's new token, int64.
        lengths_Q: How many slots of each cache hold something afterwards, int64.
        result_RNCH: Receives each chunk's sum of weighted values, float32.
        stats_RNC2: Receives each chunk's largest score and its sum of weights, float32. Chunks
            beyond a row's slot are left as they are.
        block: Slots that are loaded at once.
    """
    rows, heads, chunks, size = result_RNCH.shape
    caches, kv_heads, slots, _ = keys_QMLH.shape
    chunk, span = triton.cdiv(slots, chunks * block) * block, rows // caches
    given = (outputs_RO, cosines, sines, keys_QMLH, values_QMLH, positions_R, lengths_Q)
    same, part = {"HALF": size // 2}, (span, span, 0, 0)
    if span > 1:
        write_slots(*given, heads)
    attend_kernel[(rows * heads * chunks,)](
        *(*given, result_RNCH, stats_RNC2, slots, chunks, *part),
        **same,
        HEADS=heads,
        SHARED=heads // kv_heads,
        CHUNK=chunk,
        BLOCK=block,
        WRITES=span == 1,
    )


def rotated(vectors: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Return vectors (R, heads, H) at their positions; cosine and sine are (R, H / 2)."""
    low, high = vectors.chunk(2, -1)
    cosine, sine = cosine[:, None], sine[:, None]
    return torch.cat((low * cosine - high * sine, high * cosine + low * sine), -1)


def reference(
    outputs_RO: Tensor,
    cosines: Tensor,
    sines: Tensor,
    keys_QMLH: Tensor,
    values_QMLH: Tensor,
    positions_R: Tensor,
    lengths_Q: Tensor,
    heads: int,
) -> Tensor:
    """Write the caches as ``attend`` does; return what the heads give, (R, N H) float32."""
    caches, shared_heads, _, size = keys_QMLH.shape
    rows = len(positions_R)
    outputs = outputs_RO.view(rows, -1, size)
    query, key, value = outputs.split((heads, shared_heads, shared_heads), 1)
    cosine, sine = cosines[positions_R], sines[positions_R]
    query, key = rotated(query, cosine, sine), rotated(key, cosine, sine)
    span = rows // caches
    first = (lengths_Q - span).clamp(min=0).tolist()
    places = [(row // span, first[row // span] + row % span) for row in range(rows)]
    for row, (cache, at) in enumerate(places):
        keys_QMLH[cache, :, at], values_QMLH[cache, :, at] = key[row].half(), value[row].half()
    found = []
    for row, (cache, at) in enumerate(places):
        each = [
            kept[cache, :, : at + 1].float().repeat_interleave(heads // shared_heads, 0)
            for kept in (keys_QMLH, values_QMLH)
        ]
        scores = (each[0] @ query[row][:, :, None]).squeeze(2) / size**0.5
        found.append((scores.softmax(1)[:, None] @ each[1]).flatten())
    return torch.stack(found)
