"""The image head with weights of 8 bits: the last norm, two products, and GELU between them.

Its second product ends in the logits that the sampler takes.

Shapes: R rows, D inputs, O outputs, P parts of the stream.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from janus_edge.kernels.qkv import inverse_rms, normed, stream_tile
from janus_edge.kernels.quantized import INT8, weights, weights_of


@triton.jit
def scaled(found, words, scales, output, num_outputs, group, GROUPS: tl.constexpr):
    """Return the product of 64 inputs and their weights.

    The scales of its two blocks multiply the weights: in float16, which has more bits than they.
    """
    weight = weights_of(words, output, num_outputs, group, GROUPS, 8)
    block = tl.arange(0, 64) // 32
    at = scales + (output[:, None] * GROUPS + group) * 2 + block[None, :]
    scale = tl.load(at, mask=output[:, None] < num_outputs, other=0.0)
    return tl.dot(found.to(tl.float16), tl.trans((weight * scale).to(tl.float16)))


@triton.jit
def head_hidden_kernel(
    stream,
    parts,
    norm,
    words,
    scales,
    bias,
    result,
    num_rows,
    num_outputs,
    epsilon,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute BLOCK outputs of norm, product and GELU.

    Pointers are those of the tensors of ``head_hidden``, in order.
    """
    row = tl.arange(0, 16)
    output = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_output = output < num_outputs
    inverse = inverse_rms(stream, parts, num_rows, row, epsilon, WIDTH, PARTS)
    GROUPS: tl.constexpr = WIDTH // 64
    total = (
        tl.zeros((16, BLOCK), tl.float32)
        + tl.load(bias + output, mask=is_output, other=0.0)[None, :]
    )
    for group in range(GROUPS):
        column = group * 64 + tl.arange(0, 64)
        found = stream_tile(stream, parts, num_rows, row, column, WIDTH, PARTS)
        found *= inverse[:, None] * tl.load(norm + column)[None, :]
        total += scaled(found, words, scales, output, num_outputs, group, GROUPS)
    found = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
    at = row[:, None] * num_outputs + output[None, :]
    tl.store(result + at, found, mask=(row[:, None] < num_rows) & is_output[None, :])


@triton.jit
def head_logits_kernel(
    hidden,
    words,
    scales,
    bias,
    logits,
    num_rows,
    num_outputs,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute BLOCK logits. Pointers are those of the tensors of ``head_logits``, in order."""
    row = tl.arange(0, 16)
    output = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_row, is_output = row < num_rows, output < num_outputs
    GROUPS: tl.constexpr = WIDTH // 64
    total = (
        tl.zeros((16, BLOCK), tl.float32)
        + tl.load(bias + output, mask=is_output, other=0.0)[None, :]
    )
    for group in range(GROUPS):
        column = group * 64 + tl.arange(0, 64)
        at = hidden + row[:, None] * WIDTH + column[None, :]
        found = tl.load(at, mask=is_row[:, None], other=0.0)
        total += scaled(found, words, scales, output, num_outputs, group, GROUPS)
    at = row[:, None] * num_outputs + output[None, :]
    tl.store(logits + at, total, mask=is_row[:, None] & is_output[None, :])


def head_hidden(
    stream_RD: Tensor,
    parts_PRD: Tensor,
    norm_D: Tensor,
    words: Tensor,
    scales_OK: Tensor,
    bias_O: Tensor,
    result_RO: Tensor,
    epsilon: float,
    block: int = 32,
) -> None:
    """Compute GELU of the normed stream's product.

    Args:
        stream_RD: The stream before the last layer's result, float32; at most 16 rows.
        parts_PRD: That result, in parts; float32.
        norm_D: The last norm's weights, float32.
        words: Weights of 8 bits, (O, D / 64, 16) int32.
        scales_OK: Their scales, (O, D / 32) float32.
        bias_O: The bias, float32.
        result_RO: Receives the result, float32.
        epsilon: Of the norm.
        block: Outputs of a program.
    """
    rows, outputs = result_RO.shape
    head_hidden_kernel[(triton.cdiv(outputs, block),)](
        *(stream_RD, parts_PRD, norm_D, words, scales_OK, bias_O, result_RO),
        *(rows, outputs, epsilon),
        WIDTH=stream_RD.shape[1],
        PARTS=len(parts_PRD),
        BLOCK=block,
    )


def head_logits(
    hidden_RD: Tensor,
    words: Tensor,
    scales_OK: Tensor,
    bias_O: Tensor,
    logits_RO: Tensor,
    block: int = 32,
) -> None:
    """Compute the logits.

    Args:
        hidden_RD: From ``head_hidden``, float32; at most 16 rows.
        words: Weights of 8 bits, (O, D / 64, 16) int32.
        scales_OK: Their scales, (O, D / 32) float32.
        bias_O: The bias, float32.
        logits_RO: Receives the logits, float32.
        block: Outputs of a program.
    """
    rows, outputs = logits_RO.shape
    head_logits_kernel[(triton.cdiv(outputs, block),)](
        *(hidden_RD, words, scales_OK, bias_O, logits_RO, rows, outputs),
        WIDTH=hidden_RD.shape[1],
        BLOCK=block,
    )


def reference_hidden(
    stream_RD: Tensor,
    parts_PRD: Tensor,
    norm_D: Tensor,
    words: Tensor,
    scales_OK: Tensor,
    bias_O: Tensor,
    epsilon: float,
) -> Tensor:
    """Return what ``head_hidden`` computes, in float32."""
    found = normed(stream_RD + parts_PRD.sum(0), norm_D, epsilon)
    return torch.nn.functional.gelu(found @ weights(words, scales_OK, INT8).T + bias_O)


def reference_logits(hidden_RD: Tensor, words: Tensor, scales_OK: Tensor, bias_O: Tensor) -> Tensor:
    """Return what ``head_logits`` computes, in float32."""
    return hidden_RD @ weights(words, scales_OK, INT8).T + bias_O
