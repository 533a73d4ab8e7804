"""Lay weights out for the decoder's kernels: from a bundle's tiles to words, on the device.

A bundle has its weights once, in tiles of 32 outputs (docs/bundle.md, "Weights in tiles"), which
suit a CPU. A GPU gets these bytes as they are and lays them out anew, once, at open.

Shapes: O outputs, I inputs, K scales per output, T tiles of 32 outputs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from janus_edge.kernels.quantized import Packing, pack

TILE = 32  # outputs


@triton.jit
def repack_kernel(
    tiles,
    tile_scales,
    words,
    scales,
    num_outputs,
    num_groups,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Lay out one group of inputs of one tile: a program per tile and group, groups fastest.

    Pointers are those of the tensors of ``repack``, in order; ``tile_scales`` is the address of
    ``tiles`` again, as float32. BLOCK inputs share a scale.
    """
    RECORD: tl.constexpr = 128 + 4 * BLOCK * BITS
    NUM: tl.constexpr = 32 // BITS  # values of a word
    QUADS: tl.constexpr = 8 // BITS  # of four inputs, in the same bytes
    BLOCKS: tl.constexpr = NUM * 16 // BLOCK  # of a group
    tile, group = tl.program_id(0) // num_groups, tl.program_id(0) % num_groups
    first = tl.program_id(0).to(tl.int64) * BLOCKS * RECORD
    lane, word = tl.arange(0, 32), tl.arange(0, 16)
    output = tile * 32 + lane
    is_output = output < num_outputs
    for block in tl.static_range(BLOCKS):
        scale = tl.load(tile_scales + (first + block * RECORD) // 4 + lane)
        at = scales + (output * num_groups + group) * BLOCKS + block
        tl.store(at, scale, mask=is_output)
    found = tl.zeros((32, 16), tl.int32)
    for value in tl.static_range(NUM):
        given = word * NUM + 2 * value % NUM + 2 * value // NUM  # even inputs, then odd ones
        block, given = given // BLOCK, given % BLOCK
        quad, record = given // 4, first + block * RECORD + 128
        at = (record + quad // QUADS * 128 + given % 4)[None, :] + 4 * lane[:, None]
        byte = tl.load(tiles + at).to(tl.int32)
        bits = (byte >> (quad % QUADS * BITS)[None, :]) & ((1 << BITS) - 1)
        found |= bits << (value * BITS)
    at = (output[:, None] * num_groups + group) * 16 + word[None, :]
    tl.store(words + at, found, mask=is_output[:, None])


def repack(tiles: Tensor, words: Tensor, scales_OK: Tensor, packing: Packing) -> None:
    """Lay weights out as the decoder's kernels read them.

    Args:
        tiles: The bytes of a matrix, uint8: T x K records.
        words: Receives the weights, (O, I / group, 16) int32.
        scales_OK: Receives the scales, float32.
        packing: Of the weights.
    """
    outputs, groups, _ = words.shape
    repack_kernel[(triton.cdiv(outputs, TILE) * groups,)](
        *(tiles, tiles.view(torch.float32), words, scales_OK, outputs, groups),
        BITS=packing.bits,
        BLOCK=packing.block,
    )


def reference(quantized_OI: Tensor, packing: Packing) -> Tensor:
    """Return the words of values from 0 to 2^bits - 1, (O, I / group, 16) int32."""
    return pack(quantized_OI, packing)
