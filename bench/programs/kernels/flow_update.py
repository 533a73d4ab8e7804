"""A flow's step beside the same arithmetic in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from janus_edge.bench.programs.kernels.case import Case
from janus_edge.kernels.flow_update import flow_update, reference
from janus_edge.runtime.flow import FlowSettings, factors


def cases(device: str) -> Iterator[Case]:
    """Yield JanusFlow-1.3B's latent of one image and of eight, guided, with the solver ab2."""
    for num in (1, 8):
        yield _case(device, num)


def _case(device: str, num: int) -> Case:
    settings = FlowSettings(guidance_scale=2.0, num_steps=30, solver="ab2")
    z, before, denoised = (torch.randn(num, 4, 48, 48, device=device) for _ in range(3))
    velocities = torch.randn(2 * num, 4, 48, 48, device=device)
    table = torch.from_numpy(factors(settings)).to(device)

    def call(run: Callable[..., object]) -> Callable[[], object]:
        state = [z.clone(), velocities, before.clone(), denoised.clone(), table]
        steps, times = torch.full((num,), 5, device=device), torch.zeros(num, device=device)

        def one() -> None:
            steps.fill_(5)  # for both alike; the table ends at 30
            run(*state, steps, times)

        return one

    return Case(
        shape=f"{num} latents of 4 x 48 x 48",
        ours=call(flow_update),
        eager=call(reference),
        num_bytes=5 * z.nbytes + velocities.nbytes,
    )
