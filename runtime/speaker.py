"""Draw and ask, whole, as streams and in threads: what a model and a chat share."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypedDict, cast

from janus_edge.runtime.drawn import DrawnImage, drawn_image
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.events import Event, Image, Preview
from janus_edge.runtime.events import Text as TextEvent
from janus_edge.runtime.requests import ImageRequest, random_seed
from janus_edge.runtime.session import Session
from janus_edge.runtime.stream import Stream

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from janus_edge.runtime.image_inputs import ImageLike

LOG = logging.getLogger("janus_edge")


class DrawSettings(TypedDict, total=False):
    """Settings of a drawing, as of ``ImageRequest``; what is left out is the bundle's."""

    guidance_scale: float
    temperature: float
    top_k: int
    top_p: float
    num_steps: int
    solver: str
    shift: float
    guidance_start: float
    guidance_end: float
    window: int
    fast: bool
    reference: bool
    parallel: int


class AskSettings(TypedDict, total=False):
    """Settings of an answer, as of ``AskRequest``."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    parallel: int


class Speaker(ABC):
    """Draw and answer, for a model and for a chat, which start their requests differently."""

    _session: Session | None

    @abstractmethod
    def _draw(self, prompt: str, seed: int, settings: dict[str, Any]) -> Iterator[Event]:
        """Return the events of a drawing."""

    @abstractmethod
    def _ask(self, question: str, images: Any, settings: dict[str, Any]) -> Iterator[Event]:
        """Return the events of an answer."""

    @property
    def _past(self) -> dict[str, Any]:
        """Return what a drawing's request has of earlier turns."""
        return {}

    @property
    def _open(self) -> Session:
        if self._session is None:
            raise OptionError("the model is closed; load it again")
        return self._session

    def draw(
        self, prompt: str, *, seed: int | None = 0, **settings: Unpack[DrawSettings]
    ) -> DrawnImage:
        """Draw an image.

        Args:
            prompt: What to draw.
            seed: Same prompt, seed and settings: same image. None takes a random one.
            **settings: See ``DrawSettings``.

        Raises:
            PromptError: The prompt is empty or too long.
            OptionError: A setting is unknown or out of range.
        """
        with self._drawing(prompt, seed, dict(settings), previews=False) as stream:
            return next(item for item in stream if isinstance(item, DrawnImage))

    def draw_stream(
        self, prompt: str, *, seed: int | None = 0, **settings: Unpack[DrawSettings]
    ) -> Stream[Preview | DrawnImage]:
        """Draw an image and see it sharpen: previews, then the image; ``for`` or ``async for``.

        Args:
            prompt: What to draw.
            seed: See ``draw``.
            **settings: See ``DrawSettings``.

        Raises:
            PromptError: The prompt is empty or too long.
            OptionError: A setting is unknown or out of range.
        """
        return self._drawing(prompt, seed, dict(settings), previews=True)

    async def draw_async(
        self, prompt: str, *, seed: int | None = 0, **settings: Unpack[DrawSettings]
    ) -> DrawnImage:
        """Draw an image in a thread; see ``draw``."""
        async with self._drawing(prompt, seed, dict(settings), previews=False) as stream:
            drawn = [item async for item in stream if isinstance(item, DrawnImage)]
        return drawn[0]

    def ask(self, images: ImageLike | Any, question: str, **settings: Unpack[AskSettings]) -> str:
        """Answer a question.

        Args:
            images: What it is about: a drawn image, a path, a PIL image, an array (H, W, 3) of
                uint8, a list of these, or None for nothing.
            question: The question.
            **settings: See ``AskSettings``.

        Raises:
            PromptError: The question is empty or too long.
            ImageError: An image cannot be read.
            OptionError: A setting is unknown or out of range.
        """
        with self.ask_stream(images, question, **settings) as stream:
            return "".join(stream).strip()

    def ask_stream(
        self, images: ImageLike | Any, question: str, **settings: Unpack[AskSettings]
    ) -> Stream[str]:
        """Answer a question piece by piece; ``for`` or ``async for``. See ``ask``."""
        if not isinstance(question, str):
            kind = type(question).__name__
            raise OptionError(f"the question is of type {kind}; ask takes images, then a question")
        events = self._ask(question, () if images is None else images, dict(settings))
        pieces = (event.text for event in events if isinstance(event, TextEvent))
        return Stream(pieces, _closer(events))

    async def ask_async(
        self, images: ImageLike | Any, question: str, **settings: Unpack[AskSettings]
    ) -> str:
        """Answer a question in a thread; see ``ask``."""
        async with self.ask_stream(images, question, **settings) as stream:
            return "".join([piece async for piece in stream]).strip()

    def _drawing(
        self, prompt: str, seed: int | None, settings: dict[str, Any], *, previews: bool
    ) -> Stream[Preview | DrawnImage]:
        session = self._open
        if not isinstance(prompt, str) or settings.get("num_images", 1) != 1:
            raise OptionError(
                "draw takes one prompt and draws one image; call it once for each, or use "
                "janus_edge.Session"
            )
        seed = random_seed() if seed is None else seed
        request = ImageRequest(prompt=prompt, seed=seed, **settings | self._past)
        events = self._draw(prompt, seed, settings | {"previews": previews})
        return Stream(_images(session, request, events), _closer(events))


def _images(
    session: Session, request: ImageRequest, events: Iterator[Event]
) -> Iterator[Preview | DrawnImage]:
    """Yield previews and the image; note how long it took."""
    began = time.monotonic()
    for event in events:
        if isinstance(event, Preview):
            yield event
        elif isinstance(event, Image):
            LOG.info("drew seed %d in %.2f s", event.seed, time.monotonic() - began)
            yield drawn_image(session, request, event)


def _closer(events: Iterator[Event]) -> Callable[[], None]:
    return cast(Callable[[], None], getattr(events, "close", lambda: None))
