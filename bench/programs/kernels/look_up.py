"""The look-up beside indexing, repeating and counting in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from janus_edge.bench.programs.kernels.case import Case
from janus_edge.kernels.look_up import look_up, reference


def cases(device: str) -> Iterator[Case]:
    """Yield the look-up for one image and for eight."""
    for num in (1, 8):
        yield _case(device, num)


def _case(device: str, num: int) -> Case:
    table_KD = torch.randn(16384, 2048, device=device, dtype=torch.float16)
    codes_B = torch.randint(0, 16384, (num,), device=device)
    embeds_RD = torch.empty(2 * num, 2048, device=device)

    def call(run: Callable[..., object]) -> Callable[[], object]:
        counters = [
            torch.zeros(size, dtype=torch.int64, device=device) for size in (num, 2 * num, 2 * num)
        ]
        drawn = torch.zeros(num, 10**6, dtype=torch.int64, device=device)  # never full
        return lambda: run(codes_B, table_KD, embeds_RD, drawn, *counters)

    return Case(
        shape=f"{num} images, width 2048",
        ours=call(look_up),
        eager=call(reference),
        num_bytes=num * 2048 * 2 + embeds_RD.nbytes,
    )
