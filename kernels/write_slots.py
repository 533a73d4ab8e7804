"""Find where a row's key and value lie in the caches, and write them there.

A position says by what a row is rotated, a slot where its key and value lie. Slots follow each
other; positions may leave gaps.

Shapes: R rows, Q caches, P = R / Q positions per cache, N heads of queries, M heads of keys and
values, H numbers per head, L slots. Queries, keys and values lie in this order in O = (N + 2 M) H
outputs.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from janus_edge.kernels.overlap import wait_for_previous


@triton.jit
def place_of(positions, lengths, row, span, time, first, start):
    """Return the position and the slot of a row.

    A call has ``time`` positions of each cache; this part of it has ``span`` of them from ``start``
    on, of the caches from ``first`` on. Slots follow the valid ones, those of a padded prompt begin
    at 0.
    """
    cache, index = first + row // span, start + row % span
    position = tl.load(positions + cache * time + index).to(tl.int32)
    before = tl.load(lengths + cache).to(tl.int32) - time
    return position, tl.maximum(before, 0) + index


@triton.jit
def turned(outputs, at, cosine, sine, HALF: tl.constexpr):
    """Return the lower and the upper half of a query or key, rotated to its position."""
    low, high = tl.load(outputs + at), tl.load(outputs + at + HALF)
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
def write_slots_kernel(
    outputs,
    cosines,
    sines,
    keys,
    values,
    positions,
    lengths,
    num_slots,
    span,
    time,
    first,
    start,
    KV_HEADS: tl.constexpr,
    QUERIES: tl.constexpr,
    HALF: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """Write a row's keys and values into its slot: a program per row and head of keys.

    Pointers are those of the tensors of ``write_slots``, in order. QUERIES are the outputs before
    the first key.
    """
    wait_for_previous(OVERLAPS)
    head, row = tl.program_id(0) % KV_HEADS, tl.program_id(0) // KV_HEADS
    OUTPUTS: tl.constexpr = QUERIES + 2 * KV_HEADS * 2 * HALF
    half = tl.arange(0, HALF)
    position, slot = place_of(positions, lengths, row, span, time, first, start)
    cosine, sine = (
        tl.load(cosines + position * HALF + half),
        tl.load(sines + position * HALF + half),
    )
    at = row * OUTPUTS + QUERIES + head * 2 * HALF + half
    new = ((row // span * KV_HEADS + head) * num_slots + slot) * 2 * HALF + half
    low, high = turned(outputs, at, cosine, sine, HALF)
    kept_pair(keys, new, low, high, True, HALF)
    at += KV_HEADS * 2 * HALF
    low, high = tl.load(outputs + at), tl.load(outputs + at + HALF)
    kept_pair(values, new, low, high, True, HALF)


def write_slots(
    outputs_RO: Tensor,
    cosines: Tensor,
    sines: Tensor,
    keys_QMLH: Tensor,
    values_QMLH: Tensor,
    positions_R: Tensor,
    lengths_Q: Tensor,
    heads: int,
) -> None:
    """Write the new keys and values of all rows into the caches.

    Args:
        outputs_RO: Queries, keys and values, float32.
        cosines: Of every position, (positions, H / 2) float32.
        sines: The same.
        keys_QMLH: The cache, float16; receives a slot of each row.
        values_QMLH: The same.
        positions_R: Position of each row's new token, int64.
        lengths_Q: How many slots of each cache hold something afterwards, int64.
        heads: N.
    """
    caches, kv_heads, slots, size = keys_QMLH.shape
    rows = len(positions_R)
    span = rows // caches
    given = (outputs_RO, cosines, sines, keys_QMLH, values_QMLH, positions_R, lengths_Q)
    write_slots_kernel[(rows * kv_heads,)](
        *(*given, slots, span, span, 0, 0),
        KV_HEADS=kv_heads,
        QUERIES=heads * size,
        HALF=size // 2,
    )
