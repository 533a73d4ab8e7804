"""RMS norm of the stream: what the products of a layer take, and what heads take.

It also adds what the product before left in parts: the sum becomes the stream that goes on. Here a
row is normed once; within the products every program would do it again.

Shapes: R rows, D width, P parts of the stream.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from janus_edge.kernels.overlap import wait_for_previous


@triton.jit
def norm_kernel(
    stream,
    parts,
    norm,
    kept,
    result,
    num_rows,
    epsilon,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """Norm a row: a program per row. Pointers are those of the tensors of ``norm``, in order."""
    wait_for_previous(OVERLAPS)
    column = tl.arange(0, triton.next_power_of_2(WIDTH))
    mask, at = column < WIDTH, tl.program_id(0) * WIDTH + column
    found = tl.load(stream + at, mask=mask, other=0.0)
    for part in tl.static_range(PARTS):
        found += tl.load(parts + part * num_rows * WIDTH + at, mask=mask, other=0.0)
    tl.store(kept + at, found, mask=mask)
    inverse = 1.0 / tl.sqrt(tl.sum(found * found) / WIDTH + epsilon)
    found = found * inverse * tl.load(norm + column, mask=mask, other=0.0)
    tl.store(result + at, found.to(result.dtype.element_ty), mask=mask)


def norm(
    stream_RD: Tensor,
    parts_PRD: Tensor,
    norm_D: Tensor,
    kept_RD: Tensor,
    result_RD: Tensor,
    epsilon: float,
) -> None:
    """Add the parts to the stream, and norm it.

    Args:
        stream_RD: The stream before the last product's result, float32.
        parts_PRD: That result, in parts, added in order; float32.
        norm_D: The norm's weights, float32.
        kept_RD: Receives the sum of the stream and its parts, float32.
        result_RD: Receives the normed sum, float16 for products or float32.
        epsilon: Of the norm.
    """
    rows, width = stream_RD.shape
    norm_kernel[(rows,)](
        *(stream_RD, parts_PRD, norm_D, kept_RD, result_RD, rows, epsilon),
        WIDTH=width,
        PARTS=len(parts_PRD),
    )


def reference(
    stream_RD: Tensor, parts_PRD: Tensor, norm_D: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Return the sum and the normed sum, in float32."""
    kept = stream_RD + parts_PRD.sum(0)
    return kept, kept * (kept.square().mean(1, keepdim=True) + epsilon).rsqrt() * norm_D
