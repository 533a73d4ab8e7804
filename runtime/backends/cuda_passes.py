"""Divide a call of the decoder on a GPU into passes (cuda_decoder.py).

Shapes: R rows, T positions, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from janus_edge.runtime.cuda import DeviceArray

MOST_ROWS = 16  # of a pass: a tile of products
MOST_MANY = 640  # of a pass with many rows
MANY = "_many"  # ends the names of its kernels
_MOST_DRAFTS = 64  # positions of a call whose hidden states must not depend on their number


@dataclass(frozen=True)
class Pass:
    """Says which rows of a call a pass computes: ``span`` positions of each cache.

    They begin at position ``start`` of the call and at cache ``first``; the call has ``time``
    positions. ``is_many``: by the kernels for many rows.
    """

    embeds: DeviceArray
    positions: DeviceArray  # of the whole call, as are lengths
    lengths: DeviceArray
    hidden: DeviceArray
    caches: list[DeviceArray]
    rows: int
    span: int
    time: int
    first: int
    start: int
    is_many: bool

    @property
    def is_step(self) -> bool:
        """Return whether the call has one position of each row."""
        return self.time == 1 and not self.is_many

    @property
    def ending(self) -> str:
        """Return what the names of the kernels end with."""
        return MANY if self.is_many else ""

    @property
    def part(self) -> tuple[int, int, int, int]:
        """Return the numbers by which kernels find the rows (kernels/write_slots.py)."""
        return self.span, self.time, self.first, self.start


def has_many(time: int, *, is_prompt: bool) -> bool:
    """Return whether a call takes the kernels for many rows.

    Prompts do, whatever their length: a row must not depend on the others of its batch. Drafts do
    not, whatever their number: it must not change what is drawn.

    Args:
        time: Positions of a row.
        is_prompt: Whether they are prompts.
    """
    return is_prompt or time > _MOST_DRAFTS


def passes_of(
    inputs: Mapping[str, DeviceArray],
    hidden: DeviceArray,
    caches: list[DeviceArray],
    *,
    is_many: bool,
) -> Iterator[Pass]:
    """Divide a call into passes: several rows' positions at once, or parts of one row's.

    Args:
        inputs: The decoder's: embeds (R, T, D), positions (R, T), lengths (R,).
        hidden: Receives the hidden states (R, T, D).
        caches: Keys and values of each layer.
        is_many: By the kernels for many rows.
    """
    embeds = inputs["embeds"]
    rows, time, width = embeds.shape
    most = MOST_MANY if is_many else MOST_ROWS
    at_once = max(1, most // time)
    for first in range(0, rows, at_once):
        own = min(at_once, rows - first)
        kept = [
            each.view((own, *each.shape[1:]), first * int(np.prod(each.shape[1:])))
            for each in caches
        ]
        for start in range(0, time, most):
            span = min(most, time - start)
            at = (first * time + start) * width
            yield Pass(
                embeds=embeds.view((own * span, width), at),
                positions=inputs["positions"],
                lengths=inputs["lengths"],
                hidden=hidden.view((own * span, width), at),
                caches=kept,
                rows=own * span,
                span=span,
                time=time,
                first=first,
                start=start,
                is_many=is_many,
            )
