"""Norm and the products for queries, keys and values: the first of a layer's five kernels.

It also adds what the layer before left in parts: the sum becomes the stream that the layer adds to.

Shapes: R rows, D width, O outputs, P parts of the stream, S parts of the result.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from janus_edge.kernels.overlap import fetch, wait_for_previous
from janus_edge.kernels.quantized import INT4, weights, weights_of


@triton.jit
def stream_tile(stream, parts, num_rows, row, column, WIDTH: tl.constexpr, PARTS: tl.constexpr):
    """Load the stream and add its parts, always in the same order: (rows, columns) float32."""
    mask = (row[:, None] < num_rows) & (column[None, :] < WIDTH)
    at = row[:, None] * WIDTH + column[None, :]
    found = tl.load(stream + at, mask=mask, other=0.0)
    for part in tl.static_range(PARTS):
        found += tl.load(parts + part * num_rows * WIDTH + at, mask=mask, other=0.0)
    return found


@triton.jit
def inverse_rms(stream, parts, num_rows, row, epsilon, WIDTH: tl.constexpr, PARTS: tl.constexpr):
    """Return 1 / sqrt(mean of squares + epsilon) of each row of the stream."""
    total = tl.zeros((16,), tl.float32)
    for start in range(0, WIDTH, 128):
        column = start + tl.arange(0, 128)
        found = stream_tile(stream, parts, num_rows, row, column, WIDTH, PARTS)
        total += tl.sum(found * found, 1)
    return 1.0 / tl.sqrt(total / WIDTH + epsilon)


@triton.jit
def keep_stream(stream, parts, kept, num_rows, program, WIDTH: tl.constexpr, PARTS: tl.constexpr):
    """Store 128 columns of the sum of the stream and its parts, a program's share."""
    row, column = tl.arange(0, 16), program * 128 + tl.arange(0, 128)
    if program * 128 < WIDTH:
        found = stream_tile(stream, parts, num_rows, row, column, WIDTH, PARTS)
        mask = (row[:, None] < num_rows) & (column[None, :] < WIDTH)
        tl.store(kept + row[:, None] * WIDTH + column[None, :], found, mask=mask)


@triton.jit
def normed_product(
    stream,
    parts,
    norm,
    words,
    scales,
    num_rows,
    num_outputs,
    inverse,
    output,
    first,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Return the normed stream times 4-bit weights, over some groups from the first."""
    row = tl.arange(0, 16)
    total = tl.zeros((16, output.shape[0]), tl.float32)
    for index in range(GROUPS):
        group = first + index
        column = group * 128 + tl.arange(0, 128)
        found = stream_tile(stream, parts, num_rows, row, column, WIDTH, PARTS)
        found *= inverse[:, None] * tl.load(norm + column)[None, :]
        weight = weights_of(words, output, num_outputs, group, WIDTH // 128, 4)
        product = tl.dot(found.to(tl.float16), tl.trans(weight))
        scale = tl.load(
            scales + output * (WIDTH // 128) + group, mask=output < num_outputs, other=0.0
        )
        total += product * scale[None, :]
    return total


@triton.jit
def qkv_kernel(
    stream,
    parts,
    norm,
    words,
    scales,
    kept,
    result,
    num_rows,
    num_outputs,
    epsilon,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """Compute BLOCK outputs over a part of the inputs: a program per block and part.

    Pointers are those of the tensors of ``qkv``, in order.
    """
    block, split = tl.program_id(0) // SPLITS, tl.program_id(0) % SPLITS
    row, output = tl.arange(0, 16), block * BLOCK + tl.arange(0, BLOCK)
    GROUPS: tl.constexpr = WIDTH // 128 // SPLITS
    fetch(words, output, num_outputs, split * GROUPS, GROUPS, WIDTH // 128, OVERLAPS)
    wait_for_previous(OVERLAPS)
    keep_stream(stream, parts, kept, num_rows, tl.program_id(0), WIDTH, PARTS)
    inverse = inverse_rms(stream, parts, num_rows, row, epsilon, WIDTH, PARTS)
    total = normed_product(
        stream,
        parts,
        norm,
        words,
        scales,
        num_rows,
        num_outputs,
        inverse,
        output,
        split * GROUPS,
        GROUPS,
        WIDTH,
        PARTS,
    )
    at = (split * num_rows + row[:, None]) * num_outputs + output[None, :]
    mask = (row[:, None] < num_rows) & (output[None, :] < num_outputs)
    tl.store(result + at, total, mask=mask)


def qkv(
    stream_RD: Tensor,
    parts_PRD: Tensor,
    norm_D: Tensor,
    words: Tensor,
    scales_OK: Tensor,
    kept_RD: Tensor,
    result_SRO: Tensor,
    epsilon: float,
    block: int = 32,
) -> None:
    """Compute queries, keys and values, in parts that the next kernel adds, and the stream.

    Args:
        stream_RD: The stream before the last layer's result, float32; at most 16 rows.
        parts_PRD: That result, in parts; float32.
        norm_D: The norm's weights, float32.
        words: Weights of 4 bits, (O, D / 128, 16) int32: queries, keys, values.
        scales_OK: Their scales, float32.
        kept_RD: Receives the sum of the stream and its parts, float32.
        result_SRO: Receives the outputs in S parts, float32; D / 128 is a multiple of S.
        epsilon: Of the norm.
        block: Outputs of a program.
    """
    splits, rows, outputs = result_SRO.shape
    grid = (triton.cdiv(outputs, block) * splits,)
    qkv_kernel[grid](
        *(stream_RD, parts_PRD, norm_D, words, scales_OK, kept_RD, result_SRO),
        *(rows, outputs, epsilon),
        WIDTH=stream_RD.shape[1],
        PARTS=len(parts_PRD),
        SPLITS=splits,
        BLOCK=block,
    )


def normed(stream_RD: Tensor, norm_D: Tensor, epsilon: float) -> Tensor:
    """Return the RMS norm of a stream, in float32."""
    inverse = (stream_RD.square().mean(1, keepdim=True) + epsilon).rsqrt()
    return stream_RD * inverse * norm_D


def reference(
    stream_RD: Tensor,
    parts_PRD: Tensor,
    norm_D: Tensor,
    words: Tensor,
    scales_OK: Tensor,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """Return the kept stream and the outputs, in float32."""
    kept = stream_RD + parts_PRD.sum(0)
    return kept, normed(kept, norm_D, epsilon) @ weights(words, scales_OK, INT4).T
