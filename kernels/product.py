"""A product with 4-bit weights: queries, keys and values, attention's output, and the MLP's end.

What the MLP's end takes may be far larger than a float16 holds. So inputs of float32 are divided,
each row's 128 numbers by a power of two, and the product is multiplied by it.

Up to 16 rows are one tile, and weights are what takes time. Many rows are tiles of ROWS.

Shapes: R rows, I inputs, O outputs, K scales per output, S parts of the result.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from janus_edge.kernels.overlap import fetch, wait_for_previous
from janus_edge.kernels.quantized import INT4, rows_of, scaled_fp16, weights, weights_of


@triton.jit
def product_kernel(
    inputs,
    words,
    scales,
    result,
    num_rows,
    num_outputs,
    INPUTS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr = 16,
    OVERLAPS: tl.constexpr = False,
):
    """Compute BLOCK outputs over a part of the inputs: a program per tile of rows, block and part.

    Pointers are those of the tensors of ``product``, in order.
    """
    unit, split = tl.program_id(0) // SPLITS, tl.program_id(0) % SPLITS
    blocks = tl.cdiv(num_outputs, BLOCK)
    row = unit // blocks * ROWS + tl.arange(0, ROWS)
    output = unit % blocks * BLOCK + tl.arange(0, BLOCK)
    is_output = output < num_outputs
    GROUPS: tl.constexpr = INPUTS // 128
    SHARE: tl.constexpr = (GROUPS + SPLITS - 1) // SPLITS
    fetch(words, output, num_outputs, split * SHARE, SHARE, GROUPS, OVERLAPS)
    wait_for_previous(OVERLAPS)
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for index in range(SHARE):
        group = split * SHARE + index
        found = rows_of(inputs, row, num_rows, group, INPUTS)
        group = tl.minimum(group, GROUPS - 1)
        weight = weights_of(words, output, num_outputs, group, GROUPS, 4)
        scale = tl.load(scales + output * GROUPS + group, mask=is_output, other=0.0)
        if inputs.dtype.element_ty == tl.float32:
            found, power = scaled_fp16(found)
            total += tl.dot(found, tl.trans(weight)) * scale[None, :] * power[:, None]
        else:
            total += tl.dot(found, tl.trans(weight)) * scale[None, :]
    at = (split * num_rows + row[:, None]) * num_outputs + output[None, :]
    tl.store(result + at, total, mask=(row[:, None] < num_rows) & is_output[None, :])


def product(
    inputs_RI: Tensor,
    words: Tensor,
    scales_OK: Tensor,
    result_SRO: Tensor,
    block: int = 32,
    tile: int = 16,
) -> None:
    """Compute a product, in parts that the next kernel adds.

    Args:
        inputs_RI: What it takes, float16 or float32.
        words: Weights of 4 bits, (O, I / 128, 16) int32.
        scales_OK: Their scales, float32.
        result_SRO: Receives the outputs in S parts, float32.
        block: Outputs of a program.
        tile: Rows of a program.
    """
    splits, rows, outputs = result_SRO.shape
    product_kernel[(triton.cdiv(rows, tile) * triton.cdiv(outputs, block) * splits,)](
        *(inputs_RI, words, scales_OK, result_SRO, rows, outputs),
        INPUTS=inputs_RI.shape[1],
        SPLITS=splits,
        BLOCK=block,
        ROWS=tile,
    )


def reference(inputs_RI: Tensor, words: Tensor, scales_OK: Tensor) -> Tensor:
    """Return the product, (R, O) float32."""
    return inputs_RI.float() @ weights(words, scales_OK, INT4).T
