"""From codes to the decoder's next input: embeddings of both rows, and their positions.

With the sampler, this keeps a whole decode step on the device: no code travels to the host before
the next step begins.

Shapes: B images, R rows (2B with guidance, B without), K codes, D width, N codes per image.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def look_up_kernel(
    codes,
    table,
    embeds,
    drawn,
    positions,
    row_positions,
    row_lengths,
    num_images,
    num_rows,
    num_codes,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Look up one image's code: a program per image, so that no other touches its counters.

    Pointers are those of the tensors of ``look_up``, in order; WIDTH is D.
    """
    image = tl.program_id(0)
    code, position = tl.load(codes + image), tl.load(positions + image)
    tl.store(drawn + image * num_codes + position, code, mask=position < num_codes)
    code = tl.maximum(code, 0)  # -1 means no code; the host finds it in ``drawn``
    tl.store(positions + image, position + 1)
    for second in tl.static_range(2):
        row = image + second * num_images
        if row < num_rows:
            length = tl.load(row_lengths + row)
            tl.store(row_positions + row, length)
            tl.store(row_lengths + row, length + 1)
            for start in range(0, WIDTH, BLOCK):
                column = start + tl.arange(0, BLOCK)
                vector = tl.load(table + code * WIDTH + column, mask=column < WIDTH)
                tl.store(embeds + row * WIDTH + column, vector, mask=column < WIDTH)


def look_up(
    codes_B: Tensor,
    table_KD: Tensor,
    embeds_RD: Tensor,
    drawn_BN: Tensor,
    positions_B: Tensor,
    row_positions_R: Tensor,
    row_lengths_R: Tensor,
) -> None:
    """Write the codes' vectors and positions for the next step, in place.

    Args:
        codes_B: Codes, int64; -1 for none.
        table_KD: Decoder input of each code.
        embeds_RD: Receives the vector of each row.
        drawn_BN: Receives each code at its position, int64.
        positions_B: Position of each code in its image, int64; advanced by one.
        row_positions_R: Receives the length of each row, int64.
        row_lengths_R: Length of each row, int64; advanced by one.
    """
    num_images, width = len(codes_B), table_KD.shape[1]
    look_up_kernel[(num_images,)](
        *(codes_B, table_KD, embeds_RD, drawn_BN, positions_B, row_positions_R, row_lengths_R),
        *(num_images, len(embeds_RD), drawn_BN.shape[1]),
        WIDTH=width,
        BLOCK=min(2048, triton.next_power_of_2(width)),
        num_warps=16,
    )


def reference(
    codes_B: Tensor,
    table_KD: Tensor,
    embeds_RD: Tensor,
    drawn_BN: Tensor,
    positions_B: Tensor,
    row_positions_R: Tensor,
    row_lengths_R: Tensor,
) -> None:
    """Do what ``look_up`` does, with the same arguments, in PyTorch."""
    repeats = len(embeds_RD) // len(codes_B)
    embeds_RD.copy_(table_KD[codes_B].repeat(repeats, 1))
    drawn_BN[torch.arange(len(codes_B), device=codes_B.device), positions_B] = codes_B
    positions_B += 1
    row_positions_R.copy_(row_lengths_R)
    row_lengths_R += 1
