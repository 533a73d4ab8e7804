"""Put the chunks of attention together: what each head gives, as the next product takes it.

Shapes: R rows, N heads, C chunks, H numbers per head.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from janus_edge.kernels.overlap import wait_for_previous
from janus_edge.kernels.quantized import NEGLIGIBLE
from janus_edge.kernels.write_slots import place_of


@triton.jit
def merge_kernel(
    attended,
    stats,
    positions,
    lengths,
    result,
    num_chunks,
    span,
    time,
    first,
    start,
    HEADS: tl.constexpr,
    HEAD: tl.constexpr,
    CHUNK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """Put a head's chunks together: a program per row and head, heads fastest.

    Pointers are those of the tensors of ``merge``, in order.
    """
    wait_for_previous(OVERLAPS)
    program, number = tl.program_id(0), tl.arange(0, HEAD)
    _, slot = place_of(positions, lengths, program // HEADS, span, time, first, start)
    last = slot // CHUNK  # the last chunk
    most, total = NEGLIGIBLE, 0.0
    found = tl.zeros((HEAD,), tl.float32)
    chunk = 0
    while chunk <= last:
        at = program * num_chunks + chunk
        newest, weight = tl.load(stats + 2 * at), tl.load(stats + 2 * at + 1)
        larger = tl.maximum(most, newest)
        faded, grown = tl.exp(most - larger), tl.exp(newest - larger)
        found = found * faded + tl.load(attended + at * HEAD + number) * grown
        total, most = total * faded + weight * grown, larger
        chunk += 1
    tl.store(result + program * HEAD + number, (found / total).to(tl.float16))


def merge(
    attended_RNCH: Tensor,
    stats_RNC2: Tensor,
    positions_R: Tensor,
    lengths_Q: Tensor,
    result_RI: Tensor,
    chunk: int,
) -> None:
    """Put the chunks of attention together.

    Args:
        attended_RNCH: Each chunk's sum of weighted values, float32.
        stats_RNC2: Each chunk's largest score and its sum of weights, float32.
        positions_R: Position of each row's newest token, int64.
        lengths_Q: How many slots of each cache hold something, int64: beyond a row's, nothing is
            read.
        result_RI: Receives what the heads give, float16; I = N H.
        chunk: Slots of a chunk.
    """
    rows, heads, chunks, size = attended_RNCH.shape
    span = rows // len(lengths_Q)
    merge_kernel[(rows * heads,)](
        *(attended_RNCH, stats_RNC2, positions_R, lengths_Q, result_RI, chunks),
        *(span, span, 0, 0),
        HEADS=heads,
        HEAD=size,
        CHUNK=chunk,
    )
