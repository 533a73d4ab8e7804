"""Draw, ask and chat in one line each: ``janus_edge.load``.

Everything here is made of requests and events (``runtime/session.py``), which stay for those who
want each step of a request.
"""

from __future__ import annotations

import logging
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, cast

from janus_edge.runtime.arguments import Integer, PathOrName, Text, checked
from janus_edge.runtime.bundle import Bundle, open_bundle
from janus_edge.runtime.conversation import Conversation
from janus_edge.runtime.devices import AUTO
from janus_edge.runtime.drawn import DrawnImage, drawn_image
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.events import Event, Image, Preview
from janus_edge.runtime.events import Text as TextEvent
from janus_edge.runtime.prompt import Turn
from janus_edge.runtime.requests import AskRequest, ImageRequest, random_seed
from janus_edge.runtime.session import Session
from janus_edge.runtime.stream import Stream

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from janus_edge.runtime.image_inputs import ImageLike

LOG = logging.getLogger("janus_edge")


class DrawSettings(TypedDict, total=False):
    """How an image is drawn; what is left out is the bundle's. See ``ImageRequest``."""

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
    """How a question is answered. See ``AskRequest``."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    parallel: int


class _Speaker(ABC):
    """Draw and answer, for a model and for a chat, which start their requests differently."""

    _session: Session | None

    @abstractmethod
    def _draw(self, prompt: str, seed: int, settings: dict[str, Any]) -> Iterator[Event]:
        """Return the events of a drawing."""

    @abstractmethod
    def _ask(self, question: str, images: Any, settings: dict[str, Any]) -> Iterator[Event]:
        """Return the events of an answer."""

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
        request = ImageRequest(prompt=prompt, seed=seed, **settings)
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


class Model(_Speaker):
    """A loaded model that draws, answers and chats.

    Requests of several threads wait for each other. It is a context manager; ``close`` frees its
    memory.

    Attributes:
        name: Name of the bundle.
        device: Where it runs.
    """

    def __init__(self, session: Session) -> None:
        """Take a session; ``load`` makes one."""
        self._session: Session | None = session
        self.name, self.device = session.bundle.manifest.name, session.device

    @property
    def session(self) -> Session:
        """The session, for requests and events."""
        return self._open

    @property
    def bundle(self) -> Bundle:
        """The bundle."""
        return self._open.bundle

    def chat(self) -> Chat:
        """Return a conversation: questions and drawings that follow each other."""
        return Chat(self)

    def close(self) -> None:
        """Free the memory, once requests that run have ended; further requests are refused."""
        self._session = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Free the memory."""
        self.close()

    def __repr__(self) -> str:
        """Return the name and the device."""
        state = "" if self._session else ", closed"
        return f"<janus_edge.Model {self.name} on {self.device}{state}>"

    def _draw(self, prompt: str, seed: int, settings: dict[str, Any]) -> Iterator[Event]:
        request = ImageRequest(prompt=prompt, seed=seed, **settings)
        return self._open.generate_image(request)

    def _ask(self, question: str, images: Any, settings: dict[str, Any]) -> Iterator[Event]:
        return self._open.ask(AskRequest(question=question, images=images, **settings))


class Chat(_Speaker):
    """A conversation with a model: text, images shown and images drawn, in any order.

    A drawn image is shown with the next question. ``say`` asks about what has been shown so far.
    """

    def __init__(self, model: Model) -> None:
        """Begin a conversation; ``Model.chat`` does."""
        # By a proxy, so that a closed model's memory is free though its chats live.
        self._model, self._conversation = model, Conversation(weakref.proxy(model.session))

    def __repr__(self) -> str:
        """Return the model's name and how long the conversation is."""
        return f"<janus_edge.Chat with {self._model.name}, {len(self.turns)} turns>"

    @property
    def _session(self) -> Session | None:  # type: ignore[override]
        return self._model._session

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The questions and answers so far."""
        return self._conversation.turns

    @property
    def state(self) -> Any:
        """Return where the conversation is; set it to go back there."""
        return self._conversation.state

    @state.setter
    def state(self, state: Any) -> None:
        self._conversation.state = state

    def say(self, message: str, **settings: Unpack[AskSettings]) -> str:
        """Return the answer to a message; images that were shown or drawn before are known."""
        return self.ask(None, message, **settings)

    def say_stream(self, message: str, **settings: Unpack[AskSettings]) -> Stream[str]:
        """Return the answer piece by piece; see ``say``."""
        return self.ask_stream(None, message, **settings)

    async def say_async(self, message: str, **settings: Unpack[AskSettings]) -> str:
        """Return the answer, from a thread; see ``say``."""
        return await self.ask_async(None, message, **settings)

    def _draw(self, prompt: str, seed: int, settings: dict[str, Any]) -> Iterator[Event]:
        _ = self._open
        return self._conversation.draw(prompt, seed=seed, **settings)

    def _ask(self, question: str, images: Any, settings: dict[str, Any]) -> Iterator[Event]:
        _ = self._open
        return self._conversation.ask(question, images, **settings)


@checked
def load(
    model: PathOrName | None = None, *, device: Text = AUTO, num_threads: Integer = 0
) -> Model:
    """Load a model that draws, answers and chats.

    Args:
        model: Name of a bundle that ships or was pulled, or a bundle's folder; None takes the
            default.
        device: A device's name; "auto" takes what suits the bundle and is there.
        num_threads: Threads; 0 lets the backend choose.

    Raises:
        BundleError: The bundle is missing or damaged.
        DeviceError: The bundle cannot run on the device.
        OptionError: There is no such device name, or not so many threads.
    """
    session = Session(open_bundle(model), num_threads=num_threads, device=device)
    LOG.info("loaded %s on %s", session.bundle.manifest.name, session.device)
    return Model(session)
