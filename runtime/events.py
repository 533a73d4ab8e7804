"""What a request yields while it runs. Times are milliseconds since the request began."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Progress:
    """``done`` of ``total`` codes of all pictures."""

    done: int
    total: int
    elapsed_ms: float


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The picture after ``num_codes`` codes, by the linear preview map: (H, W, 3) uint8."""

    index: int
    num_codes: int
    pixels: np.ndarray
    elapsed_ms: float


@dataclass(frozen=True, kw_only=True)
class Image:
    """A finished picture (H, W, 3) uint8, its seed and its codes (N,) int64."""

    index: int
    pixels: np.ndarray
    codes: np.ndarray
    seed: int
    elapsed_ms: float


@dataclass(frozen=True, kw_only=True)
class Text:
    """The next piece of an answer."""

    text: str
    elapsed_ms: float


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The last event. ``timings_ms``: time spent in each part, and ``total``."""

    timings_ms: dict[str, float] = field(default_factory=dict)


Event = Progress | Preview | Image | Text | Finished
