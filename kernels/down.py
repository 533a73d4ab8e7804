"""The product that ends a layer's MLP, in parts that the next layer adds to the stream.

Shapes: R rows, I inputs, D width, S parts.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from janus_edge.kernels.overlap import fetch, wait_for_previous
from janus_edge.kernels.quantized import INT4, divided, rows_of, weights, weights_of


@triton.jit
def down_kernel(
    inner,
    words,
    scales,
    result,
    num_rows,
    num_outputs,
    INNER: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """Compute BLOCK outputs over a part of the inputs: a program per block and part.

    Pointers are those of the tensors of ``down``, in order.
    """
    block, split = tl.program_id(0) // SPLITS, tl.program_id(0) % SPLITS
    row = tl.arange(0, 16)
    output, is_row = block * BLOCK + tl.arange(0, BLOCK), row < num_rows
    GROUPS: tl.constexpr = INNER // 128
    SHARE: tl.constexpr = (GROUPS + SPLITS - 1) // SPLITS
    fetch(words, output, num_outputs, split * SHARE, SHARE, GROUPS, OVERLAPS)
    wait_for_previous(OVERLAPS)
    total = tl.zeros((16, BLOCK), tl.float32)
    for index in range(SHARE):
        group = split * SHARE + index
        found, power = divided(rows_of(inner, row, num_rows, group, INNER))
        group = tl.minimum(group, GROUPS - 1)
        weight = weights_of(words, output, num_outputs, group, GROUPS, 4)
        product = tl.dot(found, tl.trans(weight))
        scale = tl.load(scales + output * GROUPS + group, mask=output < num_outputs, other=0.0)
        total += product * scale[None, :] * power[:, None]
    at = (split * num_rows + row[:, None]) * num_outputs + output[None, :]
    tl.store(result + at, total, mask=is_row[:, None] & (output[None, :] < num_outputs))


def down(
    inner_RI: Tensor, words: Tensor, scales_DK: Tensor, result_SRD: Tensor, block: int = 32
) -> None:
    """Compute what the MLP adds to the stream, in parts.

    Args:
        inner_RI: From ``gate_up``, float32; at most 16 rows.
        words: Weights of 4 bits, (D, I / 128, 16) int32.
        scales_DK: Their scales, float32.
        result_SRD: Receives the outputs in S parts, float32.
        block: Outputs of a program.
    """
    splits, rows, outputs = result_SRD.shape
    down_kernel[(triton.cdiv(outputs, block) * splits,)](
        *(inner_RI, words, scales_DK, result_SRD, rows, outputs),
        INNER=inner_RI.shape[1],
        SPLITS=splits,
        BLOCK=block,
    )


def reference(inner_RI: Tensor, words: Tensor, scales_DK: Tensor) -> Tensor:
    """Return the product, (R, D) float32."""
    return inner_RI @ weights(words, scales_DK, INT4).T
