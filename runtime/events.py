"""The events that a request yields while it runs. Times are milliseconds since its start."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the request has come.

    Attributes:
        done: Codes or steps that are done, of all images.
        total: Codes or steps of all images.
        unit: "codes" or "steps".
        elapsed_ms: Time since the request began, ms.
    """

    done: int
    total: int
    unit: str
    elapsed_ms: float


@dataclass(frozen=True, kw_only=True)
class Preview:
    """An unfinished image, by the bundle's preview decoder or its linear preview map.

    A flow's preview shows what the latent would end as if the newest velocity held.

    Attributes:
        index: Which image of the request.
        done: Codes or steps of this image that are done.
        pixels: (H, W, 3) uint8.
        elapsed_ms: Time since the request began, ms.
    """

    index: int
    done: int
    pixels: np.ndarray
    elapsed_ms: float


@dataclass(frozen=True, kw_only=True)
class Image:
    """A finished image.

    Attributes:
        index: Which image of the request.
        pixels: (H, W, 3) uint8.
        seed: The image's seed.
        elapsed_ms: Time since the request began, ms.
        codes: What the image was decoded from, (N,) int64; None for a flow.
        latent: What the image was decoded from, (Z, H', W') float32; None for a code model.
        approximate: True if ``window`` or ``guidance_end`` may have changed the codes.
    """

    index: int
    pixels: np.ndarray
    seed: int
    elapsed_ms: float
    codes: np.ndarray | None = None
    latent: np.ndarray | None = None
    approximate: bool = False


@dataclass(frozen=True, kw_only=True)
class Text:
    """The next piece of an answer.

    Attributes:
        text: The piece.
        elapsed_ms: Time since the request began, ms.
    """

    text: str
    elapsed_ms: float


@dataclass(frozen=True, kw_only=True)
class Pass:
    """A run of the decoder that adds codes or tokens (docs/decoding.md).

    Attributes:
        width: Positions that it computed in each row.
        codes: Codes that it added to all images together, or tokens to an answer.
        took_ms: Time with head and sampler, ms.
    """

    width: int
    codes: int
    took_ms: float


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The last event of a request.

    Attributes:
        timings_ms: Time spent in each part, and ``total``, ms.
        step_ends_ms: When each code, token or step was done, in order, ms since the request began.
        passes: The passes that added codes or tokens, in order; none of a flow, nor of a GPU's own
            loop that takes one position at a time.
    """

    timings_ms: dict[str, float] = field(default_factory=dict)
    step_ends_ms: tuple[float, ...] = ()
    passes: tuple[Pass, ...] = ()


Event = Progress | Preview | Image | Text | Finished
