"""Which examples a step has: counts by role, in the ratio of the stage's phase.

Everything follows from the step's number, so that a run goes on anywhere, on any number of
processes. A ratio that does not divide the batch is met exactly over a few steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from janus_edge.train.recipe import Phase, Stage


@dataclass(frozen=True)
class Share:
    """Examples of one role in a step.

    Attributes:
        role: The role.
        start: Examples of the role that the stage's earlier steps took.
        count: Examples that this step takes.
    """

    role: str
    start: int
    count: int


def shares_at(stage: Stage, step: int) -> list[Share]:
    """Return the examples of a step, by role, in the order of the phase's mixture.

    Args:
        stage: The stage.
        step: Number of the step, from 0.

    Raises:
        ValueError: The stage has no such step.
    """
    taken: dict[str, int] = {}
    before = 0
    for phase in stage.phases:
        mixture = tuple(phase.mixture.items())
        inside = step - before
        if inside < phase.steps:
            starts = _taken(mixture, stage.batch_size, inside)
            counts = _period(mixture, stage.batch_size)[inside % _period_length(phase)]
            return [
                Share(role, taken.get(role, 0) + start, count)
                for (role, _), start, count in zip(mixture, starts, counts, strict=True)
            ]
        for (role, _), count in zip(
            mixture, _taken(mixture, stage.batch_size, phase.steps), strict=True
        ):
            taken[role] = taken.get(role, 0) + count
        before += phase.steps
    raise ValueError(f"stage {stage.name} has no step {step}")


def _period_length(phase: Phase) -> int:
    """Return after how many steps the counts of a phase repeat."""
    return sum(phase.mixture.values())


@cache
def _period(mixture: tuple[tuple[str, int], ...], batch_size: int) -> list[tuple[int, ...]]:
    """Return the counts by role of each step of a period; over it the ratio is exact."""
    shares = [share for _, share in mixture]
    total, given = sum(shares), [0] * len(shares)
    period = []
    for step in range(total):
        # in units of 1 / total: what each role should have by now, less what it has
        owed = [s * batch_size * (step + 1) - g * total for s, g in zip(shares, given, strict=True)]
        counts = [max(0, each // total) for each in owed]
        left = [o - c * total for o, c in zip(owed, counts, strict=True)]
        for place in sorted(range(len(shares)), key=lambda i: (-left[i], i)):
            if sum(counts) == batch_size:
                break
            counts[place] += 1
        given = [g + c for g, c in zip(given, counts, strict=True)]
        period.append(tuple(counts))
    return period


def _taken(mixture: tuple[tuple[str, int], ...], batch_size: int, steps: int) -> list[int]:
    """Return how many examples of each role the first steps of a phase take."""
    period = _period(mixture, batch_size)
    whole, rest = divmod(steps, len(period))
    return [
        whole * share * batch_size + sum(counts[place] for counts in period[:rest])
        for place, (_, share) in enumerate(mixture)
    ]
