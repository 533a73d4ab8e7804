"""A whole flow by the kernel is the one of ``runtime.flow``."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from janus_edge.kernels import flow_update
from janus_edge.runtime.flow import FlowSettings, Step, factors, integrate
from tests.kernels.conftest import DEVICE


def _field(z: np.ndarray, t: float, guided: bool) -> list[np.ndarray]:
    """Velocities of conditional rows and, guided, of unconditional ones."""
    conditional = [np.float32(t) - z * z]
    return [*conditional, np.sin(z) * np.float32(0.7)] if guided else conditional


def _by_runtime(z: np.ndarray, settings: FlowSettings) -> list[Step]:
    def velocity(z: np.ndarray, t: float, guided: bool) -> np.ndarray:
        rows = _field(z, t, guided)
        if not guided:
            return rows[0]
        return rows[1] + np.float32(settings.guidance_scale) * (rows[0] - rows[1])

    return list(integrate(velocity, z, settings))


@pytest.mark.parametrize("shape", [(1, 4, 3, 5), (3, 4, 16, 17)])
@pytest.mark.parametrize(
    "settings",
    [
        FlowSettings(guidance_scale=2.0, num_steps=5, solver="euler"),
        FlowSettings(guidance_scale=1.0, num_steps=4, solver="ab2"),
        FlowSettings(
            guidance_scale=1.5, num_steps=6, solver="ab2", shift=3.0,
            guidance_start=0.1, guidance_end=0.5,
        ),
    ],
)  # fmt: skip
def test_a_flow(settings: FlowSettings, shape: tuple[int, ...]) -> None:
    z0 = np.random.default_rng(0).standard_normal(shape, np.float32) / 2
    for run in (flow_update.flow_update, flow_update.reference):
        z = torch.from_numpy(z0.copy()).to(DEVICE)
        before, denoised = torch.full_like(z, float("nan")), torch.empty_like(z)
        steps = torch.zeros(shape[0], dtype=torch.int64, device=DEVICE)
        table, t = torch.from_numpy(factors(settings)).to(DEVICE), 0.0
        times = torch.zeros(shape[0], device=DEVICE)
        for step in _by_runtime(z0, settings):
            rows = np.concatenate(_field(z.cpu().numpy(), t, settings.guided(t)))
            run(z, torch.from_numpy(rows).to(DEVICE), before, denoised, table, steps, times)
            t = step.t
            assert times.tolist() == [np.float32(t)] * shape[0]
            assert np.array_equal(z.cpu().numpy(), step.z)
            assert np.array_equal(denoised.cpu().numpy(), step.denoised)
        assert steps.tolist() == [settings.num_steps] * shape[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_velocities_of_half_precision(dtype: torch.dtype) -> None:
    settings = FlowSettings(guidance_scale=2.0, num_steps=3, solver="ab2")
    table, results = torch.from_numpy(factors(settings)).to(DEVICE), []
    for run in (flow_update.flow_update, flow_update.reference):
        random = torch.Generator().manual_seed(2)
        z = torch.randn(2, 4, 9, 9, generator=random).to(DEVICE)
        state = (z, torch.zeros_like(z), torch.zeros_like(z))
        steps = torch.zeros(2, dtype=torch.int64, device=DEVICE)
        for _ in range(3):
            v = torch.randn(4, 4, 9, 9, generator=random).to(DEVICE, dtype)
            run(state[0], v, *state[1:], table, steps, torch.zeros(2, device=DEVICE))
        results.append(state)
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


def test_heun_is_refused() -> None:
    with pytest.raises(KeyError):
        factors(FlowSettings(guidance_scale=2.0, num_steps=3, solver="heun"))
