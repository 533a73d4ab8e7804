"""What a request yields while it runs. Times are milliseconds since the request began."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Progress:
    """``done`` of ``total`` codes or steps of all images, as ``unit`` says."""

    done: int
    total: int
    unit: str
    elapsed_ms: float


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The image after ``done`` codes or steps of its own, by the linear preview map: (H, W, 3)
    uint8. Of a flow it shows where the latent is heading."""

    index: int
    done: int
    pixels: np.ndarray
    elapsed_ms: float


@dataclass(frozen=True, kw_only=True)
class Image:
    """A finished image (H, W, 3) uint8, its seed, and what it was decoded from: codes (N,) int64,
    or a latent (Z, H', W') float32."""

    index: int
    pixels: np.ndarray
    seed: int
    elapsed_ms: float
    codes: np.ndarray | None = None
    latent: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Text:
    """The next piece of an answer."""

    text: str
    elapsed_ms: float


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The last event. ``timings_ms``: time spent in each part, and ``total``. ``step_ends_ms``:
    when each code, token or step was there, one after the other."""

    timings_ms: dict[str, float] = field(default_factory=dict)
    step_ends_ms: tuple[float, ...] = ()


Event = Progress | Preview | Image | Text | Finished
