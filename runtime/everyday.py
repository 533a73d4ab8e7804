"""Draw, ask and chat in one line each: ``janus_edge.load``.

Everything here is made of requests and events (``runtime/session.py``), which stay for those who
want each step of a request.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from janus_edge.runtime.arguments import Integer, PathOrName, Text, checked
from janus_edge.runtime.bundle import Bundle, open_bundle
from janus_edge.runtime.conversation import Conversation
from janus_edge.runtime.devices import AUTO
from janus_edge.runtime.events import Event
from janus_edge.runtime.prompt import Turn
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session
from janus_edge.runtime.speaker import LOG, AskSettings, Speaker
from janus_edge.runtime.stream import Stream

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Model(Speaker):
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


class Chat(Speaker):
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
    def _past(self) -> dict[str, Any]:
        """Return the turns so far, and their images."""
        return {"history": self.turns, "images": self._conversation.images}

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
