"""Approximate drawing in which rows of an image overlap (docs/decoding.md).

A row of codes begins once the row above has ``window`` codes. So several codes are drawn in a pass,
one in each of some rows. Codes that would come before one in raster order may then be missing. With
a window of a whole row, the order is raster order, and the image the exact one.

Shapes: B images, R rows of the decoder, T positions of a pass, D width, V codes, N codes per image.

Source: He et al., "ZipAR", arXiv 2412.04062.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from janus_edge.runtime.cached_decoder import CachedDecoder
from janus_edge.runtime.decode import Choose, PassesByRows
from janus_edge.runtime.tables import Rows


@dataclass(frozen=True)
class Step:
    """A pass of overlapping rows. Codes are counted in raster order.

    Attributes:
        read_T: The codes that the decoder reads.
        at_T: Where they stand: the place before the code that follows.
        drawn_T: The codes that follow them; -1 where that one is drawn already.
        kept: How many of the positions are kept. A row that begins early reads the newest code of
            the row above in place of its last one; that position is not kept.
    """

    read_T: np.ndarray
    at_T: np.ndarray
    drawn_T: np.ndarray
    kept: int


def steps_of(grid: int, window: int) -> list[Step]:
    """Return the passes of an image after its first code.

    Args:
        grid: Codes in a row, and rows.
        window: Codes of a row that are there when the next one begins, 1 to ``grid``.
    """
    num, steps = grid * grid, []
    drawn = [1] + [0] * (grid - 1)  # codes of each row
    read = [0] * grid  # and how many of them the decoder has read
    while sum(drawn) < num:
        places = []  # (code that is read, where it stands, code that follows)
        for row in range(grid):
            last = row * grid + drawn[row] - 1
            if read[row] < drawn[row]:
                begins_next = drawn[row] == grid and row + 1 < grid and drawn[row + 1] == 0
                follows = last + 1 if drawn[row] < grid or begins_next else -1
                places.append((last, last, follows))
        kept = len(places)
        for row in range(grid - 1):
            if window <= drawn[row] < grid and drawn[row + 1] == 0:
                end = (row + 1) * grid - 1
                places.append((row * grid + drawn[row] - 1, end, end + 1))
        for code, _, _ in places[:kept]:
            read[code // grid] += 1
        for _, _, follows in places:
            if follows >= 0:
                drawn[follows // grid] += 1
        read_T, at_T, drawn_T = np.array(places).T
        steps.append(Step(read_T, at_T, drawn_T, kept))
    return steps


def most_positions(grid: int, window: int) -> int:
    """Return the most positions of a pass; 1 without a window.

    Args:
        grid: Codes in a row, and rows.
        window: See ``steps_of``; 0 is raster order.
    """
    return max((len(step.read_T) for step in steps_of(grid, window)), default=1) if window else 1


def decode_overlapping(
    decoder: CachedDecoder,
    choose: Choose,
    code_embed_VD: Rows,
    hidden_RD: np.ndarray,
    lengths_R: np.ndarray,
    images: int,
    steps: list[Step],
    guided: int,
    passes: PassesByRows,
) -> Iterator[np.ndarray]:
    """Yield the codes (B,) of each position, in raster order.

    Args:
        decoder: The decoder, which has computed the rows' prompts.
        choose: Chooses codes; see ``code_chooser``.
        code_embed_VD: Embeddings of the codes.
        hidden_RD: Hidden states of the prompts' last positions.
        lengths_R: The prompts' lengths.
        images: B.
        steps: The passes.
        guided: How many codes of an image need its unconditional row.
        passes: Takes the time of each pass.
    """
    num_codes = 1 + sum(int((step.drawn_T >= 0).sum()) for step in steps)
    codes_BN = np.full((images, num_codes), -1, np.int64)
    codes_BN[:, :1] = choose(hidden_RD[:, None], np.zeros((images, 1), np.int64))
    yield codes_BN[:, 0].copy()
    shown = 1
    for step in steps:
        follows = step.drawn_T >= 0
        drawn_BT = np.tile(step.drawn_T[follows], (images, 1))
        copies = 2 if drawn_BT.min(initial=num_codes) < guided else 1
        passes[copies].begin(len(step.read_T))
        embeds_BTD = code_embed_VD[codes_BN[:, step.read_T]]
        positions_RT = lengths_R[: copies * images, None] + step.at_T
        hidden_RTD = decoder.look_ahead(np.concatenate([embeds_BTD] * copies), positions_RT)
        codes_BN[:, step.drawn_T[follows]] = choose(hidden_RTD[:, follows], drawn_BT)
        decoder.keep(np.full(copies * images, step.kept))
        passes[copies].end(np.full(images, follows.sum()))
        while shown < num_codes and codes_BN[0, shown] >= 0:
            yield codes_BN[:, shown].copy()
            shown += 1
