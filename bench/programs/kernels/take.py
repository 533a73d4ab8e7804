"""Accepting what a pass chose beside the same in PyTorch, whose host must see each code."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from janus_edge.bench.programs.kernels.case import Case
from janus_edge.kernels.take import reference, take

NUM, WIDTH = 10**6, 2048  # codes of an image, so that none is ever complete


def cases(device: str) -> Iterator[Case]:
    """Yield passes of two positions and of eight, for one image with guidance."""
    for positions in (2, 8):
        yield _case(device, positions)


def _case(device: str, positions: int) -> Case:
    table_KD = torch.randn(16384, WIDTH, device=device, dtype=torch.float16)
    chosen_BC = torch.randint(0, 16384, (1, positions), device=device)
    embeds_RTD = torch.empty(2, positions, WIDTH, device=device)

    def call(run: Callable[..., object]) -> Callable[[], object]:
        sizes = ((1, NUM + positions), (1,), (1, NUM), (1,), (1, positions), (2, positions))
        state = [
            torch.zeros(size, dtype=torch.int64, device=device) for size in (*sizes, (2,), (2,))
        ]
        return lambda: run(chosen_BC, table_KD, embeds_RTD, *state)

    return Case(
        shape=f"{positions} positions, width {WIDTH}",
        ours=call(take),
        eager=call(reference),
        num_bytes=positions * WIDTH * 2 + embeds_RTD.nbytes,
    )
