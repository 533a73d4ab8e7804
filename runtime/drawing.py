"""What the families' ways of drawing have in common: what there is to draw, and for whom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Job:
    """One picture to draw: its place among all, its seed, its prompt's ids (T,)."""

    index: int
    seed: int
    ids_T: np.ndarray
