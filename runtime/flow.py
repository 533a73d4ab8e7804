"""Rectified flow: from noise at t = 0 to a finished latent at t = 1.

This module knows no engine, text, file or clock. A point of the path is z = t * x + (1 - t) * z0,
its velocity v = x - z0. docs/sampling.md has the formulas and test vectors.

Shapes: B images, C latent channels, H, W latent cells, S steps.

Sources: rectified flow, arXiv 2209.03003; JanusFlow, arXiv 2411.07975; the shift, arXiv 2403.03206;
the guidance interval, arXiv 2404.07724.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from janus_edge.runtime.sampling import check_sound

Velocity = Callable[[np.ndarray, float, bool], np.ndarray]
"""From z (B, C, H, W), t and whether to guide, to v (B, C, H, W)."""

Field = Callable[[np.ndarray, float], np.ndarray]
"""From z and t to the velocity, guided if the step is."""

Past = tuple[np.ndarray, float]
"""The velocity at the start of the step before, and that step's length in t."""

Solver = Callable[
    [Field, np.ndarray, np.ndarray, float, float, Past | None], tuple[np.ndarray, np.ndarray]
]
"""From field, z, its velocity, the step's start and stop, and the step before (None if there is
none) to the slope that carries z over the step and the newest velocity known."""


@dataclass(frozen=True, kw_only=True)
class FlowSettings:
    """How a latent is drawn.

    Guidance is applied at t in [guidance_start, guidance_end). Outside of it only the conditional
    velocity is computed, at half the cost.

    Attributes:
        guidance_scale: Scale of classifier-free guidance; 1 turns it off.
        num_steps: Steps from noise to the latent.
        solver: A name of ``SOLVERS``.
        shift: Shift of the timesteps; see ``timestep_schedule``.
        guidance_start: The first t with guidance.
        guidance_end: The first t without guidance again.
    """

    guidance_scale: float
    num_steps: int
    solver: str
    shift: float = 1.0
    guidance_start: float = 0.0
    guidance_end: float = 1.0

    def guided(self, t: float) -> bool:
        """Return True if a step that begins at t needs the unconditional rows.

        At scale 1 they would cancel out.
        """
        return self.guidance_scale != 1.0 and self.guidance_start <= t < self.guidance_end


# Solvers whose steps are sums with factors that are known beforehand: how much a step uses the
# velocity of the step before.
MULTISTEP_WEIGHTS = {"euler": 0.0, "ab2": 1.0}
NUM_FACTORS = 5  # columns of ``factors``
MAX_STEPS = 10000  # the most that a request may ask for


def factors(settings: FlowSettings) -> np.ndarray:
    """Return the factors (S, 5) float32 of each step, rounded from float64.

    In order: guidance scale (1: only the conditional velocity), multistep weight, length of the
    step, what is left after it, and where it stops. ``slope = v + weight (v - v_before)``.

    Raises:
        KeyError: MULTISTEP_WEIGHTS does not have the solver.
    """
    full, rows, before = MULTISTEP_WEIGHTS[settings.solver], [], None
    for start, stop in pairwise(timestep_schedule(settings.num_steps, settings.shift).tolist()):
        guided, length = settings.guided(start), stop - start
        weight = full * length / (2 * before[1]) if before and before[0] == guided else 0.0
        scale = settings.guidance_scale if guided else 1.0
        rows.append((scale, weight, length, 1 - stop, stop))
        before = guided, length
    return np.array(rows, np.float32)


@dataclass(frozen=True, kw_only=True)
class Step:
    """The end of a step.

    Attributes:
        done: How many steps have been taken.
        t: Where the step stops.
        z: The latent there, (B, C, H, W).
        denoised: The latent at t = 1 if the newest velocity held until then, (B, C, H, W).
    """

    done: int
    t: float
    z: np.ndarray
    denoised: np.ndarray


def timestep_schedule(num_steps: int, shift: float) -> np.ndarray:
    """Return the steps' timesteps (num_steps + 1,) float64, rising from exactly 0 to exactly 1.

    The noise level s = 1 - t becomes shift * s / (1 + (shift - 1) * s). Written in t, the formula
    is exact at both ends.

    Args:
        num_steps: How many steps.
        shift: 1 gives uniform steps, more than 1 gives more steps near noise.

    Source: arXiv 2403.03206.
    """
    uniform = np.arange(num_steps + 1) / num_steps
    return uniform / (1 + (shift - 1) * (1 - uniform))


def _euler(
    field: Field, z: np.ndarray, v: np.ndarray, start: float, stop: float, past: Past | None
) -> tuple[np.ndarray, np.ndarray]:
    """Take the velocity at the start. The reference: first order, one velocity per step."""
    return v, v


def _ab2(
    field: Field, z: np.ndarray, v: np.ndarray, start: float, stop: float, past: Past | None
) -> tuple[np.ndarray, np.ndarray]:
    """Extrapolate this velocity and the one before to the step's middle (Adams-Bashforth).

    Second order, one velocity per step; the first step is Euler's.
    """
    if past is None:
        return v, v
    before, length = past
    return v + (stop - start) / (2 * length) * (v - before), v


def _heun(
    field: Field, z: np.ndarray, v: np.ndarray, start: float, stop: float, past: Past | None
) -> tuple[np.ndarray, np.ndarray]:
    """Take the mean with the velocity where Euler's step would end (the explicit trapezoid).

    Second order, two velocities per step.
    """
    ahead = field(z + (stop - start) * v, stop)
    return (v + ahead) / 2, ahead


SOLVERS: dict[str, Solver] = {"euler": _euler, "ab2": _ab2, "heun": _heun}


def integrate(velocity: Velocity, z0_BCHW: np.ndarray, settings: FlowSettings) -> Iterator[Step]:
    """Yield the end of each step; the z of the last one is the finished latent.

    Arithmetic on z is in z0's dtype (float32, or float64 to measure a solver), on t in float64.
    Whether a step is guided is decided at its start.

    Args:
        velocity: The velocity field. It may return the same buffer each time and must not write to
            z.
        z0_BCHW: Noise.
        settings: How the latent is drawn.

    Raises:
        KeyError: There is no such solver.
        BundleError: A velocity is not finite.
    """
    solve = SOLVERS[settings.solver]
    timesteps = timestep_schedule(settings.num_steps, settings.shift).tolist()
    z, past, was_guided = z0_BCHW, None, None
    for done, (start, stop) in enumerate(pairwise(timesteps), 1):
        guided = settings.guided(start)
        if guided != was_guided:  # another field, whose velocities do not mix with the past ones
            past, was_guided = None, guided
        field = partial(_evaluate, velocity, guided)
        v = field(z, start)
        slope, newest = solve(field, z, v, start, stop, past)
        past = (v, stop - start)
        z = z + (stop - start) * slope
        yield Step(done=done, t=stop, z=z, denoised=z + (1 - stop) * newest)


def _evaluate(velocity: Velocity, guided: bool, z: np.ndarray, t: float) -> np.ndarray:
    """Return a copy of the velocity in z's dtype: an engine writes its next one over this one."""
    v = np.array(velocity(z, t, guided), z.dtype)
    check_sound(v, "velocities")
    return v
