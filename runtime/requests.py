"""What can be asked of a session: to draw or to answer. Values out of range raise OptionError."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, cast

import numpy as np
from PIL import Image as PilImage
from pydantic import BeforeValidator, PlainValidator
from pydantic.dataclasses import dataclass as validated

from janus_edge.runtime.arguments import STRICT, Flag, Integer, Number, Text, in_range, one_line
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.flow import MAX_STEPS, SOLVERS
from janus_edge.runtime.image_inputs import ImageLike, to_images
from janus_edge.runtime.passes import MOST_WIDTH
from janus_edge.runtime.prompt import Turn

MAX_SEED = 2**63 - 1


def random_seed() -> int:
    """Return another seed each time, short enough to be typed again."""
    return secrets.randbelow(2**31)


Texts = Annotated[tuple[Text, ...], BeforeValidator(lambda value: _tuple(value))]
Turns = Annotated[tuple[Turn, ...], BeforeValidator(lambda value: _tuple(value))]
Images = Annotated[ImageLike | Sequence[ImageLike], PlainValidator(to_images)]


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _check_history(history: tuple[Turn, ...]) -> int:
    """Return how many images earlier turns are about. Raises OptionError for an open one."""
    if any(turn.answer is None for turn in history):
        raise OptionError("a turn of the history has no answer; ask its question first")
    return sum(turn.num_images for turn in history)


@one_line
@validated(frozen=True, kw_only=True, config=STRICT)
class ImageRequest:
    """Draw ``num_images`` images of each prompt; the i-th has seed ``seed + i``.

    A setting that is None takes the bundle's default, or with ``reference`` that of the papers.
    temperature, top_k and top_p apply to models that draw codes. num_steps, solver, shift,
    guidance_start and guidance_end apply to models that draw by a flow. NumPy's numbers are taken
    as Python's own, a list of prompts as a tuple.

    Attributes:
        prompt: One prompt or several.
        num_images: Images per prompt.
        seed: Seed of each prompt's first image.
        guidance_scale: Scale of classifier-free guidance; 1 turns it off.
        temperature: Of the sampler; 0 takes the likeliest code each time.
        top_k: How many of the likeliest codes are kept; 0 keeps all.
        top_p: Sum of the probabilities that are kept, the likeliest first; 1 keeps all.
        num_steps: Steps of the flow.
        solver: A name of ``runtime.flow.SOLVERS``.
        shift: Shift of the flow's timesteps.
        guidance_start: The t from which guidance is on, from 0 (noise) to 1.
        guidance_end: The t from which guidance is off again; of codes, the part that is guided.
        window: Codes of a row that are there when the next row begins: an approximation that takes
            fewer passes (docs/decoding.md). 0 draws in raster order, exactly. Codes only.
        fast: Guide the first 0.85 of the codes, unless ``guidance_end`` is given: an approximation
            whose other passes need one row per image. Codes only.
        reference: Take the papers' settings instead of the bundle's.
        parallel: Positions that a pass of the decoder computes, 1 to 64; the image does not depend
            on it (docs/decoding.md). None chooses what draws fastest. Codes only.
        previews: Yield a Preview after each row of codes or each step.
        history: The turns before, with their answers: the image is drawn in a conversation.
        images: The images of the history, as of an AskRequest.

    Raises:
        OptionError: A value is out of range or of another type.
        ImageError: An image cannot be read.
    """

    prompt: Text | Texts
    num_images: Integer = 1
    seed: Integer = 0
    guidance_scale: Number | None = None
    temperature: Number | None = None
    top_k: Integer | None = None
    top_p: Number | None = None
    num_steps: Integer | None = None
    solver: Text | None = None
    shift: Number | None = None
    guidance_start: Number | None = None
    guidance_end: Number | None = None
    window: Integer | None = None
    fast: Flag = False
    reference: Flag = False
    parallel: Integer | None = None
    previews: Flag = False
    history: Turns = ()
    images: Images = ()

    @property
    def rgb_images(self) -> tuple[PilImage.Image, ...]:
        """The images as RGB."""
        return cast(tuple[PilImage.Image, ...], self.images)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts, in the order of their images."""
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt

    @property
    def settings(self) -> dict[str, float | str]:
        """The settings that are not None, by name."""
        return {name: value for name in SETTINGS if (value := getattr(self, name)) is not None}

    def __post_init__(self) -> None:
        """Raise OptionError for values that no loop could run."""
        in_range("number of prompts", len(self.prompts), 1, 1024)
        in_range("num_images", self.num_images, 1, 1024)
        in_range("seed", self.seed, 0, MAX_SEED - (self.num_images - 1))
        in_range("parallel", self.parallel, 1, MOST_WIDTH)
        shown = _check_history(self.history)
        in_range("number of images", len(self.rgb_images), shown, shown)
        for name, (least, most) in _RANGES.items():
            in_range(name, getattr(self, name), least, most)
        if self.solver is not None and self.solver not in SOLVERS:
            raise OptionError(f'solver is "{self.solver}"; give one of {", ".join(SOLVERS)}')


@dataclass(frozen=True)
class PlannedImage:
    """One image of a request.

    Attributes:
        index: Its place among all images of the request.
        seed: Its seed.
        ids_T: Token ids of its prompt, (T,) int64.
    """

    index: int
    seed: int
    ids_T: np.ndarray


_RANGES: dict[str, tuple[float, float]] = {
    "guidance_scale": (0, 100),
    "temperature": (0, 100),
    "top_k": (0, 2**31),
    "top_p": (1e-6, 1),
    "window": (0, 4096),
    "num_steps": (1, MAX_STEPS),
    "shift": (0.01, 100),
    "guidance_start": (0, 1),
    "guidance_end": (0, 1),
}
_WHOLE = ("top_k", "window", "num_steps")
# Settings of a drawing that a bundle has defaults for, by name, and how a text becomes one.
SETTINGS: dict[str, type[int] | type[float] | type[str]] = {
    **{name: int if name in _WHOLE else float for name in _RANGES},
    "solver": str,
}


@one_line
@validated(frozen=True, kw_only=True, config=STRICT)
class AskRequest:
    """Ask a question about some images, or about none.

    Images are read and copied at once.

    Attributes:
        question: The question.
        images: The images of all turns, in order: one, or a tuple or list of them. Each is a path
            of an image file, a PIL image, an ``Image`` or ``Preview`` event, or an array (H, W),
            (H, W, 1), (H, W, 3) or (H, W, 4) of uint8.
        history: The turns before, with their answers.
        max_tokens: The longest answer, tokens.
        temperature: Of the sampler; 0 takes the likeliest token each time.
        top_p: Sum of the probabilities that are kept, the likeliest first; 1 keeps all.
        seed: Seed of the sampler.
        parallel: Positions that a pass of the decoder computes, 1 to 64; the answer does not depend
            on it (docs/decoding.md). None chooses what is fastest.

    Raises:
        OptionError: A value is out of range or of another type.
        ImageError: An image cannot be read.
    """

    question: Text
    images: Images = ()
    history: Turns = ()
    max_tokens: Integer = 128
    temperature: Number = 0.0
    top_p: Number = 1.0
    seed: Integer = 0
    parallel: Integer | None = None

    def __post_init__(self) -> None:
        """Raise OptionError for values that no loop could run."""
        in_range("number of images", len(self.rgb_images), _check_history(self.history), 1024)
        in_range("max_tokens", self.max_tokens, 1, 2**31)
        in_range("temperature", self.temperature, 0, 100)
        in_range("top_p", self.top_p, 1e-6, 1)
        in_range("seed", self.seed, 0, MAX_SEED)
        in_range("parallel", self.parallel, 1, MOST_WIDTH)

    @property
    def rgb_images(self) -> tuple[PilImage.Image, ...]:
        """The images as RGB."""
        return cast(tuple[PilImage.Image, ...], self.images)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The history and the question; the question is about the images that are left."""
        left = len(self.rgb_images) - sum(turn.num_images for turn in self.history)
        return (*self.history, Turn(message=self.question, num_images=left))
