from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from janus_edge.runtime.flow import SOLVERS, FlowSettings, Step, integrate, timestep_schedule
from janus_edge.runtime.sampling import STREAMS, normal

EVALUATIONS = {"euler": 1, "ab2": 1, "heun": 2}
ORDERS = {"euler": 1, "ab2": 2, "heun": 2}
Z0 = np.linspace(0.05, 0.6, 12).reshape(1, 3, 2, 2)


def settings(solver: str, num_steps: int, **more: Any) -> FlowSettings:
    return FlowSettings(**{"guidance_scale": 1.0, "num_steps": num_steps, "solver": solver} | more)


def logistic(z: np.ndarray, t: float, guided: bool) -> np.ndarray:
    """A nonlinear field that changes with time; its paths are ``logistic_end``."""
    return 2 * (1 + t) * z * (1 - z)


def logistic_end(z0: np.ndarray) -> np.ndarray:
    return 1 / (1 + (1 / z0 - 1) * np.exp(-3.0))


def run(
    solver: str, num_steps: int, z0: np.ndarray = Z0, field: Any = logistic, **more: Any
) -> list[Step]:
    return list(integrate(field, z0, settings(solver, num_steps, **more)))


def calls(solver: str, num_steps: int, **more: Any) -> list[tuple[float, bool]]:
    """(t, guided) of each velocity asked for."""
    seen: list[tuple[float, bool]] = []

    def field(z: np.ndarray, t: float, guided: bool) -> np.ndarray:
        assert type(t) is float and type(guided) is bool
        seen.append((t, guided))
        return z

    run(solver, num_steps, Z0, field, **more)
    return seen


def test_every_solver_is_tested() -> None:
    assert set(SOLVERS) == set(ORDERS) == set(EVALUATIONS)


@pytest.mark.parametrize("shift", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("solver", SOLVERS)
def test_error_falls_with_the_order_of_the_solver(solver: str, shift: float) -> None:
    def error(num_steps: int) -> float:
        return float(np.abs(run(solver, num_steps, shift=shift)[-1].z - logistic_end(Z0)).max())

    assert np.log2(error(160) / error(320)) == pytest.approx(ORDERS[solver], abs=0.1)


def test_second_order_is_worth_it_at_few_steps() -> None:
    """At the same number of velocities, in float32."""
    z0 = Z0.astype(np.float32)
    errors = {
        solver: np.abs(run(solver, 16 // count, z0)[-1].z - logistic_end(Z0)).max()
        for solver, count in EVALUATIONS.items()
    }
    assert errors["ab2"] < errors["euler"] / 4
    assert errors["heun"] < errors["euler"] / 4


def test_euler_is_the_plain_loop_of_the_reference() -> None:
    z0 = normal(np.array([3, 4]), (4, 6, 6), STREAMS["latent"])
    z, dt = z0, np.float32(1 / 30)

    def field(z: np.ndarray, t: float, guided: bool) -> np.ndarray:
        return np.sin(3 * z) - t * z

    steps = run("euler", 30, z0, field)
    for k, step in enumerate(steps):
        z = z + dt * field(z, k / 30, False)
        assert np.array_equal(step.z, z)
        assert step.z.dtype == step.denoised.dtype == np.float32
    assert [step.done for step in steps] == list(range(1, 31))
    assert [step.t for step in steps] == [k / 30 for k in range(1, 31)]


# The numbers printed in docs/sampling.md.
TABLE_T = [0.1, 0.25, 0.5, 1]
TABLE = {
    "euler": [(0.9, 0.0), (0.7935, 0.261), (0.651134, 0.366402), (0.708152, 0.708152)],
    "ab2": [(0.9, 0.0), (0.826125, 0.293625), (0.663944, 0.339582), (1.077073, 1.077073)],
    "heun": [(0.9145, 0.2755), (0.829539, 0.532163), (0.758162, 0.801255), (0.920278, 0.920278)],
}


@pytest.mark.parametrize("solver", SOLVERS)
def test_vectors_of_the_document(solver: str) -> None:
    def field(z: np.ndarray, t: float, guided: bool) -> np.ndarray:
        return (1.5 if guided else 1.0) * (t - z * z)

    z0 = np.ones((1, 1, 1, 1), np.float32)
    steps = run(solver, 4, z0, field, shift=3.0, guidance_scale=2.0, guidance_start=0.2)
    assert [step.t for step in steps] == pytest.approx(TABLE_T)
    for step, expected in zip(steps, TABLE[solver], strict=True):
        assert (step.z.item(), step.denoised.item()) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("shift", [0.5, 1.0, 1.7, 3.0, 10.0])
@pytest.mark.parametrize("num_steps", [1, 2, 7, 30, 49])
def test_times_rise_from_0_to_1(num_steps: int, shift: float) -> None:
    timesteps = timestep_schedule(num_steps, shift)
    assert timesteps.shape == (num_steps + 1,) and timesteps.dtype == np.float64
    assert timesteps[0] == 0.0 and timesteps[-1] == 1.0
    assert (np.diff(timesteps) > 0).all()
    noise = 1 - np.arange(num_steps + 1) / num_steps
    assert 1 - timesteps == pytest.approx(shift * noise / (1 + (shift - 1) * noise), abs=1e-15)


def test_shift_spends_steps_near_noise() -> None:
    assert timestep_schedule(30, 1.0).tolist() == [k / 30 for k in range(31)]
    assert timestep_schedule(4, 3.0) == pytest.approx([0, 0.1, 0.25, 0.5, 1])


@pytest.mark.parametrize("solver", SOLVERS)
def test_number_of_velocities(solver: str) -> None:
    assert len(calls(solver, 7)) == 7 * EVALUATIONS[solver]
    assert len(calls(solver, 1)) == EVALUATIONS[solver]


def test_guidance_interval() -> None:
    def guided(**more: Any) -> list[bool]:
        return [guided for _, guided in calls("euler", 8, **more)]

    assert guided(guidance_scale=1.0) == [False] * 8
    assert guided(guidance_scale=0.0) == [True] * 8
    assert guided(guidance_scale=2.0) == [True] * 8
    some = guided(guidance_scale=2.0, guidance_start=0.25, guidance_end=0.625)
    assert some == [False] * 2 + [True] * 3 + [False] * 3
    assert guided(guidance_scale=2.0, guidance_start=0.5, guidance_end=0.5) == [False] * 8


def test_a_step_is_guided_as_at_its_start() -> None:
    seen = calls("heun", 4, guidance_scale=2.0, guidance_end=0.5)
    assert seen == [
        *((0.0, True), (0.25, True), (0.25, True), (0.5, True)),
        *((0.5, False), (0.75, False), (0.75, False), (1.0, False)),
    ]
    assert calls("heun", 2, guidance_scale=2.0)[-1] == (1.0, True)


def test_ab2_starts_again_where_guidance_changes() -> None:
    """Velocities are constant on each side, so any mixture of the two would show."""

    def field(z: np.ndarray, t: float, guided: bool) -> np.ndarray:
        return np.full_like(z, 5.0 if guided else 1.0)

    interval = {"guidance_scale": 2.0, "guidance_start": 0.25, "guidance_end": 0.75}
    steps = run("ab2", 8, np.zeros_like(Z0), field, **interval)
    slopes = np.diff([0.0, *(step.z.flat[0] for step in steps)]) * 8
    assert slopes == pytest.approx([1, 1, 5, 5, 5, 5, 1, 1])


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_straight_flow_is_exact_and_its_end_known_at_once(solver: str) -> None:
    z0, x = normal(np.array([1, 2]), (2, 4, 3, 3), STREAMS["latent"]).astype(np.float64)
    for step in run(solver, 5, z0, lambda z, t, guided: x - z0, shift=2.0):
        assert step.z == pytest.approx(step.t * x + (1 - step.t) * z0, abs=1e-12)
        assert step.denoised == pytest.approx(x, abs=1e-12)
    assert np.array_equal(step.z, step.denoised)


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_was_yielded_stays_and_buffers_may_be_reused(solver: str) -> None:
    """An engine writes each answer over the last one."""
    buffer = np.empty_like(Z0)

    def field(z: np.ndarray, t: float, guided: bool) -> np.ndarray:
        buffer[:] = logistic(z, t, guided)
        return buffer

    z0, copies, steps = Z0.copy(), [], []
    for step in integrate(field, z0, settings(solver, 6)):
        steps.append(step)
        copies.append((step.z.copy(), step.denoised.copy()))
    assert np.array_equal(z0, Z0)
    for step, (z, denoised), again in zip(steps, copies, run(solver, 6), strict=True):
        assert np.array_equal(step.z, z) and np.array_equal(step.denoised, denoised)
        assert np.array_equal(step.z, again.z) and np.array_equal(step.denoised, again.denoised)


def test_unknown_solver() -> None:
    with pytest.raises(KeyError, match="rk4"):
        run("rk4", 4)
