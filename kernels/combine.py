"""Put the chunks of attention together, and the product with the output's weights.

Shapes: R rows, N heads, C chunks, H numbers per head, D width, S parts.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from janus_edge.kernels.overlap import fetch, wait_for_previous
from janus_edge.kernels.quantized import INT4, NEGLIGIBLE, weights, weights_of


@triton.jit
def combine_kernel(
    attended,
    stats,
    positions,
    words,
    scales,
    result,
    num_rows,
    num_chunks,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD: tl.constexpr,
    CHUNK: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """Compute BLOCK outputs over a part of the inputs: a program per block and part.

    Pointers are those of the tensors of ``combine``, in order.
    """
    block, split = tl.program_id(0) // SPLITS, tl.program_id(0) % SPLITS
    row = tl.arange(0, 16)
    output, is_row = block * BLOCK + tl.arange(0, BLOCK), row < num_rows
    GROUPS: tl.constexpr = HEADS * HEAD // 128
    SHARE: tl.constexpr = GROUPS // SPLITS
    fetch(words, output, WIDTH, split * SHARE, SHARE, GROUPS, OVERLAPS)
    wait_for_previous(OVERLAPS)
    live = tl.load(positions + row, mask=is_row, other=-1).to(tl.int32) // CHUNK  # the last chunk
    last = tl.max(live)
    total = tl.zeros((16, BLOCK), tl.float32)
    for index in range(SHARE):
        group = split * SHARE + index
        column = group * 128 + tl.arange(0, 128)
        first = (row[:, None] * HEADS + (column // HEAD)[None, :]) * num_chunks
        most = tl.full((16, 128), NEGLIGIBLE, tl.float32)
        total_weight = tl.zeros((16, 128), tl.float32)
        found = tl.zeros((16, 128), tl.float32)
        chunk = 0
        while chunk <= last:
            mask = (is_row & (chunk <= live))[:, None]
            at = first + chunk
            newest = tl.load(stats + 2 * at, mask=mask, other=NEGLIGIBLE)
            share = tl.load(stats + 2 * at + 1, mask=mask, other=0.0)
            vector = tl.load(attended + at * HEAD + (column % HEAD)[None, :], mask=mask, other=0.0)
            larger = tl.maximum(most, newest)
            faded, grown = tl.exp(most - larger), tl.exp(newest - larger)
            found = found * faded + vector * grown
            total_weight = total_weight * faded + share * grown
            most = larger
            chunk += 1
        found = (found / tl.where(is_row[:, None], total_weight, 1.0)).to(tl.float16)
        weight = weights_of(words, output, WIDTH, group, GROUPS, 4)
        product = tl.dot(found, tl.trans(weight))
        scale = tl.load(scales + output * GROUPS + group, mask=output < WIDTH, other=0.0)
        total += product * scale[None, :]
    at = (split * num_rows + row[:, None]) * WIDTH + output[None, :]
    tl.store(result + at, total, mask=is_row[:, None] & (output[None, :] < WIDTH))


def combine(
    attended_RNCH: Tensor,
    stats_RNC2: Tensor,
    positions_R: Tensor,
    words: Tensor,
    scales_DK: Tensor,
    result_SRD: Tensor,
    chunk: int,
    block: int = 32,
) -> None:
    """Compute what attention adds to the stream, in parts.

    Args:
        attended_RNCH: Each chunk's sum of weighted values, float32, from ``attend``.
        stats_RNC2: Each chunk's largest score and sum of weights, float32.
        positions_R: Position of each row's new token, int64.
        words: Weights of 4 bits, (D, N H / 128, 16) int32.
        scales_DK: Their scales, float32.
        result_SRD: Receives the outputs in S parts, float32; N H / 128 is a multiple of S.
        chunk: Slots of a chunk.
        block: Outputs of a program.
    """
    rows, heads, chunks, size = attended_RNCH.shape
    splits, _, width = result_SRD.shape
    combine_kernel[(triton.cdiv(width, block) * splits,)](
        *(attended_RNCH, stats_RNC2, positions_R, words, scales_DK, result_SRD, rows, chunks),
        WIDTH=width,
        HEADS=heads,
        HEAD=size,
        CHUNK=chunk,
        SPLITS=splits,
        BLOCK=block,
    )


def reference(heads_RI: Tensor, words: Tensor, scales_DK: Tensor) -> Tensor:
    """Return the product of what the heads give, (R, D) float32."""
    return heads_RI @ weights(words, scales_DK, INT4).T
