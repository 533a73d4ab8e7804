"""Norm, the products for gate and up, and SiLU: the first half of a layer's MLP.

Shapes: R rows, D width, I numbers within the MLP, P parts of the stream.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from janus_edge.kernels.overlap import fetch, wait_for_previous
from janus_edge.kernels.qkv import inverse_rms, keep_stream, normed, stream_tile
from janus_edge.kernels.quantized import INT4, weights, weights_of


@triton.jit
def gate_up_kernel(
    stream,
    parts,
    norm,
    words,
    scales,
    kept,
    result,
    num_rows,
    num_inner,
    epsilon,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """Compute BLOCK numbers of gate and up over all inputs, as SiLU needs whole sums.

    Pointers are those of the tensors of ``gate_up``, in order.
    """
    row = tl.arange(0, 16)
    output = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    GROUPS: tl.constexpr = WIDTH // 128
    is_output, up_words = output < num_inner, words + num_inner * GROUPS * 16
    fetch(words, output, num_inner, 0, GROUPS, GROUPS, OVERLAPS)
    fetch(up_words, output, num_inner, 0, GROUPS, GROUPS, OVERLAPS)
    wait_for_previous(OVERLAPS)
    keep_stream(stream, parts, kept, num_rows, tl.program_id(0), WIDTH, PARTS)
    inverse = inverse_rms(stream, parts, num_rows, row, epsilon, WIDTH, PARTS)
    gate = tl.zeros((16, BLOCK), tl.float32)
    up = tl.zeros((16, BLOCK), tl.float32)
    for group in range(GROUPS):
        column = group * 128 + tl.arange(0, 128)
        found = stream_tile(stream, parts, num_rows, row, column, WIDTH, PARTS)
        found = (found * inverse[:, None] * tl.load(norm + column)[None, :]).to(tl.float16)
        weight = weights_of(words, output, num_inner, group, GROUPS, 4)
        gate_product = tl.dot(found, tl.trans(weight))
        weight = weights_of(up_words, output, num_inner, group, GROUPS, 4)
        up_product = tl.dot(found, tl.trans(weight))
        at = scales + output * GROUPS + group
        gate += gate_product * tl.load(at, mask=is_output, other=0.0)[None, :]
        up += up_product * tl.load(at + num_inner * GROUPS, mask=is_output, other=0.0)[None, :]
    found = gate / (1.0 + tl.exp(-gate)) * up
    at = row[:, None] * num_inner + output[None, :]
    tl.store(result + at, found, mask=(row[:, None] < num_rows) & is_output[None, :])


def gate_up(
    stream_RD: Tensor,
    parts_PRD: Tensor,
    norm_D: Tensor,
    words: Tensor,
    scales: Tensor,
    kept_RD: Tensor,
    result_RI: Tensor,
    epsilon: float,
    block: int = 32,
) -> None:
    """Compute SiLU(gate) * up of the normed stream, and the stream.

    Args:
        stream_RD: The stream before attention's result, float32; at most 16 rows.
        parts_PRD: That result, in parts; float32.
        norm_D: The norm's weights, float32.
        words: Weights of 4 bits, (2 I, D / 128, 16) int32: gate, then up.
        scales: Their scales, (2 I, D / 128) float32.
        kept_RD: Receives the sum of the stream and its parts, float32.
        result_RI: Receives the result, float32.
        epsilon: Of the norm.
        block: Outputs of a program.
    """
    rows, inner = result_RI.shape
    gate_up_kernel[(triton.cdiv(inner, block),)](
        *(stream_RD, parts_PRD, norm_D, words, scales, kept_RD, result_RI),
        *(rows, inner, epsilon),
        WIDTH=stream_RD.shape[1],
        PARTS=len(parts_PRD),
        BLOCK=block,
    )


def reference(
    stream_RD: Tensor,
    parts_PRD: Tensor,
    norm_D: Tensor,
    words: Tensor,
    scales: Tensor,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """Return the kept stream and the result, in float32."""
    kept = stream_RD + parts_PRD.sum(0)
    gate, up = (normed(kept, norm_D, epsilon) @ weights(words, scales, INT4).T).chunk(2, 1)
    return kept, torch.nn.functional.silu(gate) * up
