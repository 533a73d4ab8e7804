"""Attention of many positions of a sequence at once: prompts, and the steps of a flow.

A program takes one head and a block of queries, and goes through the cache once for all of them.
``write_slots`` has written all keys and values before.

Shapes: R rows, Q caches, P = R / Q positions per cache, N heads of queries, M heads of keys and
values, H numbers per head, L slots. Queries, keys and values lie in this order in O = (N + 2 M) H
outputs.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from janus_edge.kernels.overlap import wait_for_previous
from janus_edge.kernels.quantized import NEGLIGIBLE
from janus_edge.kernels.write_slots import place_of, write_slots


@triton.jit
def halves_of(cache, slots, mask, HALF: tl.constexpr):
    """Load a block of keys or values in two parts, (slots, HALF) float16 each."""
    at = cache + slots[:, None] * 2 * HALF + tl.arange(0, HALF)[None, :]
    low = tl.load(at, mask=mask[:, None], other=0.0)
    return low, tl.load(at + HALF, mask=mask[:, None], other=0.0)


@triton.jit
def queries_of(outputs, cosines, sines, at, position, mask, HALF: tl.constexpr):
    """Load queries, rotated and divided by the root of a head's size: two (rows, HALF) float16."""
    half = tl.arange(0, HALF)
    angle, at = position[:, None] * HALF + half[None, :], at[:, None] + half[None, :]
    cosine, sine = tl.load(cosines + angle), tl.load(sines + angle)
    low = tl.load(outputs + at, mask=mask[:, None], other=0.0)
    high = tl.load(outputs + at + HALF, mask=mask[:, None], other=0.0)
    share = 1.0 / tl.sqrt(2.0 * HALF)
    turned_low, turned_high = low * cosine - high * sine, high * cosine + low * sine
    return (turned_low * share).to(tl.float16), (turned_high * share).to(tl.float16)


@triton.jit
def attend_many_kernel(
    outputs,
    cosines,
    sines,
    keys,
    values,
    positions,
    lengths,
    result,
    num_slots,
    span,
    time,
    first,
    start,
    HEADS: tl.constexpr,
    SHARED: tl.constexpr,
    HALF: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """Attend to all slots: a program per cache, head and ROWS of its positions, these fastest.

    Pointers are those of the tensors of ``attend_many``, in order. SHARED query heads share a head
    of keys and values; HALF is half a head; BLOCK slots are loaded at once.
    """
    wait_for_previous(OVERLAPS)
    tiles = tl.cdiv(span, ROWS)
    tile, unit = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    head, cache = unit % HEADS, unit // HEADS
    KV_HEADS: tl.constexpr = HEADS // SHARED
    OUTPUTS: tl.constexpr = (HEADS + 2 * KV_HEADS) * 2 * HALF
    index = tile * ROWS + tl.arange(0, ROWS)
    is_row, half = index < span, tl.arange(0, HALF)
    row = cache * span + tl.minimum(index, span - 1)  # what fills the tile up repeats the last
    position, slot = place_of(positions, lengths, row, span, time, first, start)
    at = row * OUTPUTS + head * 2 * HALF
    query_low, query_high = queries_of(outputs, cosines, sines, at, position, is_row, HALF)
    kept = (cache * KV_HEADS + head // SHARED) * num_slots * 2 * HALF
    most = tl.zeros((ROWS,), tl.float32) + NEGLIGIBLE
    total = tl.zeros((ROWS,), tl.float32)
    sum_low, sum_high = tl.zeros((ROWS, HALF), tl.float32), tl.zeros((ROWS, HALF), tl.float32)
    seen = tl.max(slot) + 1  # slots, of all rows together
    for begin in range(0, seen, BLOCK):
        slots = begin + tl.arange(0, BLOCK)
        low, high = halves_of(keys + kept, slots, slots < seen, HALF)
        score = tl.dot(query_low, tl.trans(low))
        score = tl.dot(query_high, tl.trans(high), score)
        score = tl.where(slots[None, :] <= slot[:, None], score, NEGLIGIBLE)
        newest = tl.maximum(most, tl.max(score, 1))
        weight = tl.exp(score - newest[:, None])  # of what is not seen 0: each row sees a slot
        faded = tl.exp(most - newest)
        low, high = halves_of(values + kept, slots, slots < seen, HALF)
        part = weight.to(tl.float16)
        sum_low = tl.dot(part, low, sum_low * faded[:, None])
        sum_high = tl.dot(part, high, sum_high * faded[:, None])
        total, most = total * faded + tl.sum(weight, 1), newest
    made = result + row[:, None] * (HEADS * 2 * HALF) + head * 2 * HALF + half[None, :]
    tl.store(made, (sum_low / total[:, None]).to(tl.float16), mask=is_row[:, None])
    tl.store(made + HALF, (sum_high / total[:, None]).to(tl.float16), mask=is_row[:, None])


def attend_many(
    outputs_RO: Tensor,
    cosines: Tensor,
    sines: Tensor,
    keys_QMLH: Tensor,
    values_QMLH: Tensor,
    positions_R: Tensor,
    lengths_Q: Tensor,
    result_RI: Tensor,
    tile: int = 64,
    block: int = 32,
) -> None:
    """Write the new keys and values into the caches, and attend to all of them.

    Args:
        outputs_RO: Queries, keys and values, float32.
        cosines: Of every position, (positions, H / 2) float32.
        sines: The same.
        keys_QMLH: The cache, float16; receives a slot of each row.
        values_QMLH: The same.
        positions_R: Position of each row's new token, int64.
        lengths_Q: How many slots of each cache hold something afterwards, int64.
        result_RI: Receives what the heads give, float16; I = N H.
        tile: Rows of a program.
        block: Slots that are loaded at once.
    """
    caches, kv_heads, slots, size = keys_QMLH.shape
    span, heads = len(result_RI) // caches, result_RI.shape[1] // size
    given = (outputs_RO, cosines, sines, keys_QMLH, values_QMLH, positions_R, lengths_Q)
    write_slots(*given, heads)
    attend_many_kernel[(caches * heads * triton.cdiv(span, tile),)](
        *(*given, result_RI, slots, span, span, 0, 0),
        HEADS=heads,
        SHARED=heads // kv_heads,
        HALF=size // 2,
        ROWS=tile,
        BLOCK=block,
    )
