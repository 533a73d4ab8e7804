"""Rectified flow: from noise at t = 0 to a finished latent at t = 1.

Knows no engine, text, file or clock. A point of the path is z = t * x + (1 - t) * z0, its velocity
v = x - z0. The formulas and test vectors are in docs/sampling.md. Sources: rectified flow, arXiv
2209.03003; JanusFlow, arXiv 2411.07975; the shift, arXiv 2403.03206; the guidance interval, arXiv
2404.07724.

Shapes: B images, C latent channels, H, W latent cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from janus_edge.runtime.sampling import check_sound

Velocity = Callable[[np.ndarray, float, bool], np.ndarray]
"""z (B, C, H, W), t and whether to guide, to v (B, C, H, W)."""

Field = Callable[[np.ndarray, float], np.ndarray]
"""The velocity of z at t, guided or not as the step is."""

Past = tuple[np.ndarray, float]
"""The velocity at the start of the step before, and how long that step was."""

Solver = Callable[
    [Field, np.ndarray, np.ndarray, float, float, Past | None], tuple[np.ndarray, np.ndarray]
]
"""field, z, its velocity, the step's start and stop and the step before (None: there is none to
multistep_weight on) to the slope that carries z over the step, and the newest velocity known."""


@dataclass(frozen=True, kw_only=True)
class FlowSettings:
    """How a latent is drawn. Guidance is applied at t in [guidance_start, guidance_end); outside
    of it the conditional velocity alone is taken, at half the cost."""

    guidance_scale: float
    num_steps: int
    solver: str  # a name of SOLVERS
    shift: float = 1.0
    guidance_start: float = 0.0
    guidance_end: float = 1.0

    def guided(self, t: float) -> bool:
        """Whether a step that begins at t needs the unconditional rows: at scale 1 they would
        cancel out."""
        return self.guidance_scale != 1.0 and self.guidance_start <= t < self.guidance_end


# Solvers whose steps are sums with factors that are known beforehand: what each leans on the step
# before.
MULTISTEP_WEIGHTS = {"euler": 0.0, "ab2": 1.0}
NUM_FACTORS = 5  # of a step, for ``factors``
MAX_STEPS = 10000  # of a request


def factors(settings: FlowSettings) -> np.ndarray:
    """Return the factors (S, 5) float32 of each step, rounded from float64.

    In order: guidance scale (1: conditional velocities alone), weight of the step before, length,
    what is left after it, and where it stops; ``slope = v + weight (v - v_before)``. Raises
    KeyError for a solver that MULTISTEP_WEIGHTS does not have."""
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
    """The latent z (B, C, H, W) at ``t``, after ``done`` steps, and ``denoised``, what it would
    end as if the newest velocity held."""

    done: int
    t: float
    z: np.ndarray
    denoised: np.ndarray


def timestep_schedule(num_steps: int, shift: float) -> np.ndarray:
    """The steps' timesteps (num_steps + 1,) float64, rising from exactly 0 to exactly 1.

    shift 1: uniform; above 1: more steps near noise. The noise level s = 1 - t becomes
    shift * s / (1 + (shift - 1) * s) (arXiv 2403.03206); written in t it is exact at both ends.
    """
    uniform = np.arange(num_steps + 1) / num_steps
    return uniform / (1 + (shift - 1) * (1 - uniform))


def _euler(
    field: Field, z: np.ndarray, v: np.ndarray, start: float, stop: float, past: Past | None
) -> tuple[np.ndarray, np.ndarray]:
    """The reference: the velocity at the start. First order, one velocity a step."""
    return v, v


def _ab2(
    field: Field, z: np.ndarray, v: np.ndarray, start: float, stop: float, past: Past | None
) -> tuple[np.ndarray, np.ndarray]:
    """Adams-Bashforth: the line through this velocity and the one before, at the step's middle.
    Second order, one velocity a step; the first step is Euler's."""
    if past is None:
        return v, v
    before, length = past
    return v + (stop - start) / (2 * length) * (v - before), v


def _heun(
    field: Field, z: np.ndarray, v: np.ndarray, start: float, stop: float, past: Past | None
) -> tuple[np.ndarray, np.ndarray]:
    """The explicit trapezoid: the mean with the velocity where Euler's step would end. Second
    order, two velocities a step."""
    ahead = field(z + (stop - start) * v, stop)
    return (v + ahead) / 2, ahead


SOLVERS: dict[str, Solver] = {"euler": _euler, "ab2": _ab2, "heun": _heun}


def integrate(velocity: Velocity, z0_BCHW: np.ndarray, settings: FlowSettings) -> Iterator[Step]:
    """Yield each step's end; the last one's z is the finished latent.

    ``velocity(z, t, guided)`` may return the same buffer each time and must not write to z. All
    arithmetic on z is in z0's dtype (float32; float64 to measure a solver), on t in float64. Within
    a step guidance is on or off as at its start. Raises KeyError for an unknown solver, BundleError
    for velocities that are not finite.
    """
    solve = SOLVERS[settings.solver]
    timesteps = timestep_schedule(settings.num_steps, settings.shift).tolist()
    z, past, was_guided = z0_BCHW, None, None
    for done, (start, stop) in enumerate(pairwise(timesteps), 1):
        guided = settings.guided(start)
        if guided != was_guided:  # another field: its velocities and the past ones don't mix
            past, was_guided = None, guided
        field = partial(_evaluate, velocity, guided)
        v = field(z, start)
        slope, newest = solve(field, z, v, start, stop, past)
        past = (v, stop - start)
        z = z + (stop - start) * slope
        yield Step(done=done, t=stop, z=z, denoised=z + (1 - stop) * newest)


def _evaluate(velocity: Velocity, guided: bool, z: np.ndarray, t: float) -> np.ndarray:
    """A velocity in z's dtype; copied, as an engine writes its next answer over this one."""
    v = np.array(velocity(z, t, guided), z.dtype)
    check_sound(v, "velocities")
    return v
