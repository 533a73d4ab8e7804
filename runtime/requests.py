"""What can be asked of a session: to draw, or to answer. Out-of-range values are refused here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image as PilImage

from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.flow import MAX_STEPS, SOLVERS
from janus_edge.runtime.prompt import Turn

MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """Draw ``num_images`` pictures of each prompt; the i-th has seed ``seed + i``.

    Settings that are None are the bundle's own defaults, or with ``reference`` those of the papers.
    temperature, top_k and top_p are of models that draw codes; num_steps, solver, shift and the
    part of t in which guidance is on (``guidance_start`` to ``guidance_end``) of those that draw by
    a flow. previews: yield a Preview after each row of codes or each step.
    Raises OptionError for values out of range.
    """

    prompt: str | tuple[str, ...]
    num_images: int = 1
    seed: int = 0
    guidance_scale: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    num_steps: int | None = None
    solver: str | None = None
    shift: float | None = None
    guidance_start: float | None = None
    guidance_end: float | None = None
    reference: bool = False
    previews: bool = False

    @property
    def prompts(self) -> tuple[str, ...]:
        """One or several, in the order of their pictures."""
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt

    @property
    def settings(self) -> dict[str, float | str]:
        """Those that are not None."""
        return {name: value for name in _SETTINGS if (value := getattr(self, name)) is not None}

    def __post_init__(self) -> None:
        """Refuse what no loop could run."""
        _in_range("number of prompts", len(self.prompts), 1, 1024)
        _in_range("num_images", self.num_images, 1, 1024)
        _in_range("seed", self.seed, 0, MAX_SEED - self.num_images)
        for name, (least, most) in _RANGES.items():
            _in_range(name, getattr(self, name), least, most)
        if self.solver is not None and self.solver not in SOLVERS:
            raise OptionError(f'solver is "{self.solver}"; give one of {", ".join(SOLVERS)}')


@dataclass(frozen=True)
class Job:
    """One picture of a request: its place among all, its seed, its prompt's ids (T,)."""

    index: int
    seed: int
    ids_T: np.ndarray


_RANGES: dict[str, tuple[float, float]] = {
    "guidance_scale": (0, 100),
    "temperature": (0, 100),
    "top_k": (0, 2**31),
    "top_p": (1e-6, 1),
    "num_steps": (1, MAX_STEPS),
    "shift": (0.01, 100),
    "guidance_start": (0, 1),
    "guidance_end": (0, 1),
}
_SETTINGS = (*_RANGES, "solver")


@dataclass(frozen=True, kw_only=True)
class AskRequest:
    """A question about some pictures, or none. temperature 0 takes the likeliest token each time.

    images: of all turns, in order. history: what was asked and answered before.
    """

    question: str
    images: tuple[PilImage.Image, ...] = ()
    history: tuple[Turn, ...] = ()
    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no loop could run."""
        if any(turn.answer is None for turn in self.history):
            raise OptionError("a turn of the history has no answer; ask its question first")
        _in_range("number of images", len(self.images), self._images_before, 1024)
        _in_range("max_tokens", self.max_tokens, 1, 2**31)
        _in_range("temperature", self.temperature, 0, 100)
        _in_range("top_p", self.top_p, 1e-6, 1)
        _in_range("seed", self.seed, 0, MAX_SEED)

    @property
    def _images_before(self) -> int:
        return sum(turn.num_images for turn in self.history)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The history and the question, which is about the pictures that are left."""
        left = len(self.images) - self._images_before
        return (*self.history, Turn(message=self.question, num_images=left))


def _in_range(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:  # NaN is in no range
        raise OptionError(f"{name} is {value}; give a value from {least} to {most}")
