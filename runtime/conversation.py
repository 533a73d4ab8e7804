"""A conversation: questions and drawings that follow each other, on one session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import InstanceOf

from janus_edge.runtime.arguments import Text, checked
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.events import Event, Finished, Image
from janus_edge.runtime.events import Text as TextEvent
from janus_edge.runtime.image_inputs import to_images
from janus_edge.runtime.prompt import Turn
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session


class Conversation:
    """Questions and drawings that follow each other.

    A turn begins where the one before ended. What its session keeps is not computed again
    (docs/decoding.md). A drawn image is shown with the next question. One thread at a time.

    Attributes:
        turns: The questions and their answers so far.
        images: The images that they are about, in order.
        shown: Images that the next question is about, besides its own.
    """

    @checked
    def __init__(self, session: InstanceOf[Session]) -> None:
        """Begin a conversation.

        Args:
            session: Runs its requests; other requests may use it too.
        """
        self._session = session
        self.turns: tuple[Turn, ...] = ()
        self.images: tuple[Any, ...] = ()
        self.shown: tuple[Any, ...] = ()

    @property
    def state(self) -> tuple[tuple[Turn, ...], tuple[Any, ...], tuple[Any, ...]]:
        """Return where the conversation is; set it to go back there."""
        return self.turns, self.images, self.shown

    @state.setter
    def state(self, state: tuple[tuple[Turn, ...], tuple[Any, ...], tuple[Any, ...]]) -> None:
        self.turns, self.images, self.shown = state

    @checked
    def ask(self, question: Text, images: Any = (), **settings: Any) -> Iterator[Event]:
        """Ask a question. It is a part of the conversation once its answer has been read.

        Args:
            question: The question.
            images: Images that it is about, as of an ``AskRequest``.
            **settings: Other settings of an ``AskRequest``.

        Yields:
            The events: Text as it is decoded, Finished.

        Raises:
            JanusEdgeError: As ``AskRequest`` and ``Session.ask``. Raised before any work.
        """
        new = (*self.shown, *to_images(images))
        _refuse_history(settings)
        request = AskRequest(
            question=question, images=(*self.images, *new), history=self.turns, **settings
        )
        pieces: list[str] = []
        num_shown = len(self.shown)

        def hear(event: Event) -> None:
            if isinstance(event, TextEvent):
                pieces.append(event.text)
            if not isinstance(event, Finished) or not "".join(pieces).strip():
                return  # a turn without an answer cannot be told to the model
            turn = Turn(message=question, num_images=len(new), answer="".join(pieces))
            self.turns, self.images = (*self.turns, turn), (*self.images, *new)
            self.shown = self.shown[num_shown:]  # images may have been drawn meanwhile

        return _Heard(self._session.ask(request), hear)

    @checked
    def draw(self, prompt: Text, **settings: Any) -> Iterator[Event]:
        """Draw an image that follows the conversation; the next question is about it.

        Args:
            prompt: What to draw.
            **settings: Other settings of an ``ImageRequest``.

        Yields:
            The events, as of ``Session.generate_image``.

        Raises:
            JanusEdgeError: As ``ImageRequest`` and ``Session.generate_image``. Raised before any
                work.
        """
        _refuse_history(settings)
        request = ImageRequest(prompt=prompt, history=self.turns, images=self.images, **settings)

        def hear(event: Event) -> None:
            if isinstance(event, Image):
                self.shown = (*self.shown, event)

        return _Heard(self._session.generate_image(request), hear)


class _Heard(Iterator[Event]):
    """The events of a request, of which a conversation hears.

    A generator could not be closed by another thread while it runs; the session's events can.
    """

    def __init__(self, events: Iterator[Event], hear: Callable[[Event], None]) -> None:
        self._events, self._hear = events, hear

    def __next__(self) -> Event:
        event = next(self._events)
        self._hear(event)
        return event

    def close(self) -> None:
        """End the request where it is."""
        self._events.close()  # type: ignore[attr-defined] # as of Session's methods


def _refuse_history(settings: dict[str, Any]) -> None:
    """Refuse a history beside the conversation's own. Raises OptionError."""
    if "history" in settings:
        raise OptionError("history is given; a conversation has its own: leave it out")
