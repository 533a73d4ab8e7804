"""The products for gate and up, and SiLU: the first half of a layer's MLP.

Shapes: R rows, D width, I numbers within the MLP.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from janus_edge.kernels.overlap import fetch, wait_for_previous
from janus_edge.kernels.quantized import INT4, rows_of, weights, weights_of


@triton.jit
def gate_up_kernel(
    inputs,
    words,
    scales,
    result,
    num_rows,
    num_inner,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr = 16,
    OVERLAPS: tl.constexpr = False,
):
    """Compute BLOCK numbers of gate and up over all inputs, as SiLU needs whole sums.

    A program per tile of ROWS rows and block. Pointers are those of the tensors of ``gate_up``, in
    order.
    """
    blocks = tl.cdiv(num_inner, BLOCK)
    row = tl.program_id(0) // blocks * ROWS + tl.arange(0, ROWS)
    output = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    GROUPS: tl.constexpr = WIDTH // 128
    is_output, up_words = output < num_inner, words + num_inner * GROUPS * 16
    fetch(words, output, num_inner, 0, GROUPS, GROUPS, OVERLAPS)
    fetch(up_words, output, num_inner, 0, GROUPS, GROUPS, OVERLAPS)
    wait_for_previous(OVERLAPS)
    gate = tl.zeros((ROWS, BLOCK), tl.float32)
    up = tl.zeros((ROWS, BLOCK), tl.float32)
    for group in range(GROUPS):
        found = rows_of(inputs, row, num_rows, group, WIDTH)
        weight = weights_of(words, output, num_inner, group, GROUPS, 4)
        at = scales + output * GROUPS + group
        scale = tl.load(at, mask=is_output, other=0.0)
        gate += tl.dot(found, tl.trans(weight)) * scale[None, :]
        weight = weights_of(up_words, output, num_inner, group, GROUPS, 4)
        scale = tl.load(at + num_inner * GROUPS, mask=is_output, other=0.0)
        up += tl.dot(found, tl.trans(weight)) * scale[None, :]
    found = gate / (1.0 + tl.exp(-gate)) * up
    at = row[:, None] * num_inner + output[None, :]
    tl.store(result + at, found, mask=(row[:, None] < num_rows) & is_output[None, :])


def gate_up(
    inputs_RD: Tensor,
    words: Tensor,
    scales: Tensor,
    result_RI: Tensor,
    block: int = 32,
    tile: int = 16,
) -> None:
    """Compute SiLU(gate) * up.

    Args:
        inputs_RD: The normed stream, float16.
        words: Weights of 4 bits, (2 I, D / 128, 16) int32: gate, then up.
        scales: Their scales, (2 I, D / 128) float32.
        result_RI: Receives the result, float32.
        block: Outputs of a program.
        tile: Rows of a program.
    """
    rows, inner = result_RI.shape
    gate_up_kernel[(triton.cdiv(rows, tile) * triton.cdiv(inner, block),)](
        *(inputs_RD, words, scales, result_RI, rows, inner),
        WIDTH=inputs_RD.shape[1],
        BLOCK=block,
        ROWS=tile,
    )


def reference(inputs_RD: Tensor, words: Tensor, scales: Tensor) -> Tensor:
    """Return the result, in float32."""
    gate, up = (inputs_RD.float() @ weights(words, scales, INT4).T).chunk(2, 1)
    return torch.nn.functional.silu(gate) * up
