"""Products with weights of 8 bits: the image head and the text head.

The image head is two products with GELU between them, the text head is one. Logits are what the
sampler takes.

Shapes: R rows, D inputs, O outputs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from janus_edge.kernels.overlap import fetch, wait_for_previous
from janus_edge.kernels.quantized import INT8, inputs_of, weights, words_of


@triton.jit
def scaled(found, words, scales, output, num_outputs, group, GROUPS: tl.constexpr):
    """Return the product of 64 inputs and their weights.

    The scales of its two blocks multiply the weights: in float16, which has more bits than they.
    """
    word = words_of(words, output, num_outputs, group, GROUPS)
    at = (output[:, None] * GROUPS + group) * 2 + (tl.arange(0, 16) // 8)[None, :]
    scale = tl.load(scales + at, mask=output[:, None] < num_outputs, other=0.0).to(tl.float16)
    weight = tl.reshape(inputs_of(word, 8) * scale[:, :, None], (output.shape[0], 64))
    return tl.dot(found.to(tl.float16), tl.trans(weight))


@triton.jit
def head_kernel(
    hidden,
    words,
    scales,
    bias,
    result,
    num_rows,
    num_outputs,
    WIDTH: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """Compute BLOCK outputs. Pointers are those of the tensors of ``head``, in order."""
    row = tl.arange(0, 16)
    output = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_row, is_output = row < num_rows, output < num_outputs
    GROUPS: tl.constexpr = WIDTH // 64
    fetch(words, output, num_outputs, 0, GROUPS, GROUPS, OVERLAPS)
    wait_for_previous(OVERLAPS)
    total = (
        tl.zeros((16, BLOCK), tl.float32)
        + tl.load(bias + output, mask=is_output, other=0.0)[None, :]
    )
    for group in range(GROUPS):
        column = group * 64 + tl.arange(0, 64)
        at = hidden + row[:, None] * WIDTH + column[None, :]
        found = tl.load(at, mask=is_row[:, None], other=0.0)
        total += scaled(found, words, scales, output, num_outputs, group, GROUPS)
    if GELU:
        total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
    at = row[:, None] * num_outputs + output[None, :]
    tl.store(result + at, total, mask=is_row[:, None] & is_output[None, :])


def head(
    hidden_RD: Tensor,
    words: Tensor,
    scales_OK: Tensor,
    bias_O: Tensor,
    result_RO: Tensor,
    *,
    gelu: bool = False,
    block: int = 32,
) -> None:
    """Compute a product, with GELU or without.

    Args:
        hidden_RD: What it takes, float32; at most 16 rows.
        words: Weights of 8 bits, (O, D / 64, 16) int32.
        scales_OK: Their scales, (O, D / 32) float32.
        bias_O: The bias, float32.
        result_RO: Receives the outputs, float32.
        gelu: Whether GELU follows.
        block: Outputs of a program.
    """
    rows, outputs = result_RO.shape
    head_kernel[(triton.cdiv(outputs, block),)](
        *(hidden_RD, words, scales_OK, bias_O, result_RO, rows, outputs),
        WIDTH=hidden_RD.shape[1],
        GELU=gelu,
        BLOCK=block,
    )


def reference(
    hidden_RD: Tensor, words: Tensor, scales_OK: Tensor, bias_O: Tensor, *, gelu: bool = False
) -> Tensor:
    """Return what ``head`` computes, in float32."""
    found = hidden_RD @ weights(words, scales_OK, INT8).T + bias_O
    return torch.nn.functional.gelu(found) if gelu else found
