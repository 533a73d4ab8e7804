"""Nearest entry of a codebook: turns an image's latent into codes.

The squared distance, without the term that all entries share, is |e|^2 - 2 x . e. x is
L2-normalised first if the codebook is. Janus's codebook is 16384 x 8.

Shapes: N vectors, E numbers in each, K codes.

Source: ViT-VQGAN, arXiv 2110.04627.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def nearest_code_kernel(
    vectors,
    table,
    codes,
    num_vectors,
    NUM_CODES: tl.constexpr,
    NORMALIZE: tl.constexpr,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Find the nearest codes of ROWS vectors, over the codebook in blocks; the first of equals.

    ``vectors`` (N, DIM), ``table`` (NUM_CODES, DIM) and ``codes`` (N,) are pointers.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    present = row < num_vectors
    squares = tl.zeros((ROWS,), tl.float32)
    for e in tl.static_range(DIM):
        x = tl.load(vectors + row * DIM + e, mask=present, other=0.0).to(tl.float32)
        squares += x * x
    length = tl.maximum(tl.sqrt_rn(squares), 1e-12) if NORMALIZE else squares * 0 + 1
    least = tl.full((ROWS,), float("inf"), tl.float32)
    best = tl.zeros((ROWS,), tl.int64)
    for start in range(0, NUM_CODES, BLOCK):
        code = start + tl.arange(0, BLOCK)
        known = code < NUM_CODES
        products = tl.zeros((ROWS, BLOCK), tl.float32)
        norms = tl.zeros((BLOCK,), tl.float32)
        for e in tl.static_range(DIM):
            x = tl.load(vectors + row * DIM + e, mask=present, other=0.0).to(tl.float32)
            entry = tl.load(table + code * DIM + e, mask=known, other=0.0).to(tl.float32)
            products += tl.div_rn(x, length)[:, None] * entry[None, :]
            norms += entry * entry
        distance = tl.where(known[None, :], norms[None, :] - 2 * products, float("inf"))
        nearest = tl.min(distance, 1)
        at = start + tl.argmin(distance, 1)
        best = tl.where(nearest < least, at.to(tl.int64), best)
        least = tl.minimum(nearest, least)
    tl.store(codes + row, best, mask=present)


def nearest_code(vectors_NE: Tensor, table_KE: Tensor, *, normalize: bool = True) -> Tensor:
    """Return the nearest codes (N,), int64.

    Args:
        vectors_NE: Vectors.
        table_KE: Codebook, used as it is.
        normalize: Whether to L2-normalise the vectors.
    """
    num_vectors, dim = vectors_NE.shape
    codes_N = torch.empty(num_vectors, dtype=torch.int64, device=vectors_NE.device)
    rows = 16
    nearest_code_kernel[(triton.cdiv(num_vectors, rows),)](
        *(vectors_NE, table_KE, codes_N, num_vectors),
        NUM_CODES=len(table_KE),
        NORMALIZE=normalize,
        DIM=dim,
        ROWS=rows,
        BLOCK=256,
    )
    return codes_N


def distances(vectors_NE: Tensor, table_KE: Tensor, *, normalize: bool = True) -> Tensor:
    """Return squared distances (N, K), fp32, less a term that all codes share.

    Args:
        vectors_NE: Vectors.
        table_KE: Codebook, used as it is.
        normalize: Whether to L2-normalise the vectors.
    """
    x_NE, table = vectors_NE.float(), table_KE.float()
    x_NE = F.normalize(x_NE, dim=-1) if normalize else x_NE
    return table.square().sum(-1) - 2 * x_NE @ table.T


def reference(vectors_NE: Tensor, table_KE: Tensor, *, normalize: bool = True) -> Tensor:
    """Return what ``nearest_code`` computes, with the same arguments, in PyTorch."""
    return distances(vectors_NE, table_KE, normalize=normalize).argmin(-1)
