"""Work through items: drawings and questions share the decoder's passes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from janus_edge.batch.items import Item
from janus_edge.runtime.drawn import texts_of
from janus_edge.runtime.errors import ImageError, OptionError, PromptError
from janus_edge.runtime.events import Event, Image, Text
from janus_edge.runtime.image_file import PNG, encode
from janus_edge.runtime.inflight import InFlight
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.sequences import Sequence as Rows
from janus_edge.runtime.session import Session

Request = ImageRequest | AskRequest


@dataclass(frozen=True)
class Outcome:
    """What came of an item.

    Attributes:
        values: "seed" of a drawing, "answer" of a question, or "error".
        image: The file of a drawing, PNG.
    """

    values: dict[str, Any]
    image: bytes | None = None


@dataclass(eq=False)
class _Work:
    """An item that is being worked on, or waits for those before it."""

    request: Request | None = None
    rows: Rows | None = None
    events: list[Event] = field(default_factory=list)
    error: str = ""

    @property
    def is_done(self) -> bool:
        """True if nothing is left to compute."""
        return self.rows is None or self.rows.is_over


def outcomes(session: Session, items: Sequence[Item]) -> Iterator[Outcome]:
    """Yield what comes of each item, in their order.

    An item that cannot be read or does not fit the model has an error as its outcome.

    Args:
        session: What draws and answers.
        items: The items.

    Raises:
        BundleError: The bundle cannot be opened, or computes what is no finite number.
    """
    flight, waiting = session.in_flight(), deque(items)
    going: deque[_Work] = deque()  # in the items' order
    try:
        while waiting or going:
            while waiting and len(going) < 4 * flight.num_rows:
                work = _begun(session, flight, waiting[0])
                if work is None and going:  # there are no rows now, or it must run alone
                    break
                item = waiting.popleft()
                going.append(work or _alone(session, item))
            if flight.is_busy:
                flight.step()
            while going and going[0].is_done:
                yield _outcome(session, going.popleft())
    finally:
        flight.stop()


def _begun(session: Session, flight: InFlight, item: Item) -> _Work | None:
    """Begin an item among the others; None if that cannot be done now."""
    try:
        request = item.request()
        sequences = session.sequences(request)
    except (ImageError, OptionError, PromptError) as error:
        return _Work(error=str(error))
    if not sequences or not flight.can_take(sequences[0]) or not flight.has_room(sequences[0]):
        return None
    flight.join(sequences[0])
    return _Work(request, sequences[0])


def _alone(session: Session, item: Item) -> _Work:
    """Work on an item by itself."""
    request = item.request()
    return _Work(request, events=list(session.run(request)))


def _outcome(session: Session, work: _Work) -> Outcome:
    """Return what came of an item that is done."""
    if work.request is None:
        return Outcome({"error": work.error})
    if work.rows is not None and work.rows.error is not None:
        raise work.rows.error
    events = work.events if work.rows is None else list(work.rows.events)
    for event in events:
        if isinstance(event, Image) and isinstance(work.request, ImageRequest):
            texts = texts_of(session, work.request, 0, event.seed)
            about = {"approximate": True} if event.approximate else {}
            return Outcome({"seed": event.seed, **about}, encode(event.pixels, PNG, texts))
    text = "".join(each.text for each in events if isinstance(each, Text))
    return Outcome({"answer": text.strip()})
