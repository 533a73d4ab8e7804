"""Accept what a pass chose, and prepare the next pass: exact parallel drawing on the device.

``runtime.decode.Drafts`` does the same on the host (docs/decoding.md). With the sampler, this keeps
all passes on the device.

Shapes: B images, R rows (2B with guidance, B without), K codes, D width, N codes per image, T
positions of a pass, C codes chosen at once (T; 1 after the prompt).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_WIDTH = 64  # positions of a pass


@triton.jit(do_not_specialize=["num_chosen", "num_positions", "num_images"])
def take_kernel(
    chosen,
    table,
    embeds,
    drawn,
    counts,
    ends,
    passes,
    places,
    row_positions,
    row_lengths,
    row_prompts,
    num_chosen,
    num_positions,
    num_images,
    num_rows,
    num_codes,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    MOST: tl.constexpr,
):
    """Take one image's codes: a program per image, so that no other touches its counters.

    Pointers are those of the tensors of ``take``, in order; WIDTH is D, MOST at least T.
    """
    image, step = tl.program_id(0), tl.arange(0, MOST)
    is_chosen, is_position = step < num_chosen, step < num_positions
    count, done = tl.load(counts + image), tl.load(passes + image)
    chosen += image * num_chosen
    at = drawn + image * (num_codes + num_positions) + count + step
    code = tl.load(chosen + step, mask=is_chosen, other=0)
    draft = tl.load(at, mask=is_chosen, other=0)
    right = tl.min(
        tl.where(is_chosen & (code != draft), step, MOST), 0
    )  # drafts before a wrong one
    accepted = tl.minimum(tl.minimum(right + 1, num_chosen).to(tl.int64), num_codes - count)
    tl.store(at, code, mask=is_chosen)
    last, room = tl.load(chosen + num_chosen - 1), num_codes + num_positions - count
    rest = is_position & (num_chosen + step < room)
    tl.store(at + num_chosen, last + tl.zeros_like(code), mask=rest)
    tl.store(counts + image, count + accepted)
    tl.store(passes + image, done + 1)
    tl.store(ends + image * num_codes + done, count + accepted, mask=done < num_codes)
    places += image * num_positions
    tl.store(places + step, count + accepted + step, mask=is_position)
    position = 0
    while position < num_positions:  # Triton's interpreter takes no range of an argument
        index = tl.minimum(tl.maximum(accepted - 1 + position, 0), num_chosen - 1)
        given = tl.maximum(tl.load(chosen + index), 0)  # -1 is no code; the host finds it
        for second in tl.static_range(2):
            row = image + second * num_images
            if row < num_rows:
                own = row * num_positions + position
                start = tl.load(row_prompts + row) + count + accepted - 1
                tl.store(row_positions + own, start + position)
                tl.store(row_lengths + row, start + num_positions)
                for begin in range(0, WIDTH, BLOCK):
                    column = begin + tl.arange(0, BLOCK)
                    mask = column < WIDTH
                    vector = tl.load(table + given * WIDTH + column, mask=mask)
                    tl.store(embeds + own * WIDTH + column, vector, mask=mask)
        position += 1


def take(
    chosen_BC: Tensor,
    table_KD: Tensor,
    embeds_RTD: Tensor,
    drawn_BM: Tensor,
    counts_B: Tensor,
    ends_BN: Tensor,
    passes_B: Tensor,
    places_BT: Tensor,
    row_positions_RT: Tensor,
    row_lengths_R: Tensor,
    row_prompts_R: Tensor,
) -> None:
    """Accept codes, and write what the next pass and its sampler read, in place.

    Args:
        chosen_BC: The codes chosen for the next positions of each image, int64; -1 for none.
        table_KD: Decoder input of each code.
        embeds_RTD: Receives the vectors that each row reads.
        drawn_BM: Codes of each image, then drafts, int64; M is N + T.
        counts_B: How many of them are drawn, int64; advanced.
        ends_BN: Receives that number after each pass, int64.
        passes_B: How many passes there were, int64; advanced by one.
        places_BT: Receives the positions in the image that the next pass chooses, int64.
        row_positions_RT: Receives the positions in the sequence that it reads, int64.
        row_lengths_R: Receives the length of each row's sequence after that pass, int64.
        row_prompts_R: Length of each row's prompt, int64.
    """
    (images, num_chosen), (rows, positions, width) = chosen_BC.shape, embeds_RTD.shape
    take_kernel[(images,)](
        *(chosen_BC, table_KD, embeds_RTD, drawn_BM, counts_B, ends_BN, passes_B, places_BT),
        *(row_positions_RT, row_lengths_R, row_prompts_R),
        *(num_chosen, positions, images, rows, ends_BN.shape[1]),
        WIDTH=width,
        BLOCK=min(2048, triton.next_power_of_2(width)),
        MOST=MOST_WIDTH,
        num_warps=16,
    )


def reference(
    chosen_BC: Tensor,
    table_KD: Tensor,
    embeds_RTD: Tensor,
    drawn_BM: Tensor,
    counts_B: Tensor,
    ends_BN: Tensor,
    passes_B: Tensor,
    places_BT: Tensor,
    row_positions_RT: Tensor,
    row_lengths_R: Tensor,
    row_prompts_R: Tensor,
) -> None:
    """Do what ``take`` does, with the same arguments, in PyTorch."""
    rows, positions, _ = embeds_RTD.shape
    for image, chosen in enumerate(chosen_BC.tolist()):
        count, codes = int(counts_B[image]), drawn_BM[image]
        right = 0
        while right < len(chosen) - 1 and codes[count + right] == chosen[right]:
            right += 1
        accepted = min(right + 1, ends_BN.shape[1] - count)
        codes[count : count + len(chosen)] = torch.tensor(chosen)
        codes[count + len(chosen) : count + len(chosen) + positions] = chosen[-1]
        now = count + accepted
        counts_B[image] = ends_BN[image, passes_B[image]] = now
        passes_B[image] += 1
        steps = torch.arange(positions, device=places_BT.device)
        places_BT[image] = now + steps
        given = [chosen[min(max(accepted - 1 + step, 0), len(chosen) - 1)] for step in steps]
        for row in range(image, rows, len(chosen_BC)):
            row_positions_RT[row] = row_prompts_R[row] + now - 1 + steps
            row_lengths_R[row] = row_prompts_R[row] + now - 1 + positions
            embeds_RTD[row] = table_KD[torch.tensor(given).clamp(min=0)].to(embeds_RTD.dtype)
