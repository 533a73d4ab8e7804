"""Sequence packing: several examples in a row, none of which attends to another.

Shapes: R rows, T time, I images that are asked about, G images that are drawn, N codes per image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from janus_edge.train.pieces import IGNORED, LATENT, SEEN, TEXT, TIME, Piece

_PADDING = -1  # in place of a piece's number


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Rows of pieces, padded on the right.

    ``at`` and ``targets`` say where things are as indices into the R * T positions, computed on the
    host, so that a device never waits to learn how many there are.

    Attributes:
        ids_RT: Token ids, and codes where ``kinds_RT`` is CODE.
        kinds_RT: What stands at each position (``pieces.TEXT``, ...).
        positions_RT: Position of each id in its piece.
        piece_RT: Number of the piece in its row; -1 for padding.
        at: Positions by name: "answer" (a token follows that is learned), "image" (a code follows),
            "seen" (an image's vector stands there), "begin" (an image begins after it), "time",
            "latent".
        targets: The next token ids at "answer", the next codes at "image".
        seen_ICHW: Images that are asked about, in the order of their placeholders, in [-1, 1].
        drawn: Further tensors of the images that are drawn, in the order of the rows, by name.
    """

    ids_RT: Tensor
    kinds_RT: Tensor
    positions_RT: Tensor
    piece_RT: Tensor
    at: dict[str, Tensor]
    targets: dict[str, Tensor]
    seen_ICHW: Tensor | None = None
    drawn: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def to(self, device: torch.device) -> Packed:
        """Return the same rows on a device."""

        def moved(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: moved(each) for name, each in value.items()}
            return value.to(device) if isinstance(value, Tensor) else value

        return Packed(**{f.name: moved(getattr(self, f.name)) for f in dataclasses.fields(self)})

    def mask(self) -> Tensor:
        """Return where each position attends to, (R, T, T) bool: itself and earlier ones.

        Attention stays inside a piece. Padding attends to itself, as each position must attend to
        something.
        """
        own = self.piece_RT[:, :, None] == self.piece_RT[:, None]
        return own.tril()


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return rows of pieces: the longest first, each into the first row that has room.

    Args:
        lengths: Length of each piece.
        capacity: Most positions per row.

    Returns:
        The indices of each row's pieces.

    Raises:
        ValueError: A piece is longer than a row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[index] > capacity:
            raise ValueError(f"a piece of {lengths[index]} positions; a row has {capacity}")
        fits = (at for at, free in enumerate(room) if free >= lengths[index])
        at = next(fits, None)
        if at is None:
            rows.append([])
            room.append(capacity)
            at = len(rows) - 1
        rows[at].append(index)
        room[at] -= lengths[index]
    return rows


def join(
    rows: Sequence[Sequence[Piece]],
    codes: Sequence[np.ndarray] = (),
    seen_ICHW: Tensor | None = None,
    drawn: dict[str, Tensor] | None = None,
) -> Packed:
    """Return rows of pieces as tensors.

    Args:
        rows: The pieces of each row; a row without any is padding alone.
        codes: Codes (N,) of each piece that draws with codes, in the order of the rows.
        seen_ICHW: See ``Packed``.
        drawn: See ``Packed``.
    """
    longest = max(1, *(sum(map(len, row)) for row in rows))
    shape = (len(rows), longest)
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    targets, piece = np.full(shape, IGNORED), np.full(shape, _PADDING)
    kinds, is_drawn = np.full(shape, TEXT, np.uint8), np.zeros(shape, bool)
    left = iter(codes)
    for r, row in enumerate(rows):
        start = 0
        for number, each in enumerate(row):
            at = np.s_[r, start : start + len(each)]
            ids[at], targets[at], kinds[at] = each.ids_T, each.targets_T, each.kinds_T
            positions[at], piece[at] = each.positions_T, number
            start += len(each)
            if each.num_codes:
                codes_N = next(left)
                ids[r, start - each.num_codes + 1 : start] = codes_N[:-1]
                targets[r, start - each.num_codes : start] = codes_N
                is_drawn[r, start - each.num_codes : start] = True
    learned = {"answer": (targets != IGNORED) & ~is_drawn, "image": is_drawn}
    stand = {"seen": kinds == SEEN, "time": kinds == TIME, "latent": kinds == LATENT}
    begins = (kinds != SEEN) & np.pad(kinds[:, 1:] == SEEN, ((0, 0), (0, 1)))
    places = {n: np.flatnonzero(w) for n, w in (learned | stand | {"begin": begins}).items()}
    return Packed(
        ids_RT=torch.from_numpy(ids),
        kinds_RT=torch.from_numpy(kinds),
        positions_RT=torch.from_numpy(positions),
        piece_RT=torch.from_numpy(piece),
        at={name: torch.from_numpy(where) for name, where in places.items()},
        targets={name: torch.from_numpy(targets.ravel()[places[name]]) for name in learned},
        seen_ICHW=seen_ICHW,
        drawn=drawn or {},
    )
