"""The learning rate of a step: linear warm-up, constant, then a cosine to zero."""

from __future__ import annotations

import math


def rate_at(
    step: int, *, steps: int, learning_rate: float, warmup_steps: int, decay_from: float
) -> float:
    """Return the learning rate of a step.

    Args:
        step: The step, from 0.
        steps: Steps of the stage.
        learning_rate: The rate after warm-up.
        warmup_steps: Steps in which the rate rises linearly.
        decay_from: Part of the stage after which the rate falls to 0 by a cosine; 1 keeps it.
    """
    if step < warmup_steps:
        return learning_rate * (step + 1) / warmup_steps
    begins = max(warmup_steps, int(decay_from * steps))
    if step < begins:
        return learning_rate
    done = (step - begins) / max(1, steps - begins)
    return learning_rate * 0.5 * (1 + math.cos(math.pi * done))
