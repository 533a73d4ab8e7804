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
    flight, left = session.in_flight(), iter(items)
    going: deque[_Work] = deque()  # in the items' order
    waiting: _Work | None = None  # the next one, for which there was no room
    try:
        while True:
            while len(going) < 4 * flight.num_rows:
                if waiting is None and (item := next(left, None)) is not None:
                    waiting = _prepared(session, flight, item)
                if waiting is None or not _begins(session, flight, waiting, is_alone=not going):
                    break
                going.append(waiting)
                waiting = None
            if not going:
                return
            if flight.is_busy:
                flight.step()
            while going and going[0].is_done:
                yield _outcome(session, going.popleft())
    finally:
        flight.stop()


def _prepared(session: Session, flight: InFlight, item: Item) -> _Work:
    """Return the work of an item, which has not begun. Without rows it must run alone."""
    try:
        request = item.request()
        sequences = session.sequences(request)
    except (ImageError, OptionError, PromptError) as error:
        return _Work(error=str(error))
    shares = bool(sequences) and flight.can_take(sequences[0])
    return _Work(request, sequences[0] if shares else None)


def _begins(session: Session, flight: InFlight, work: _Work, *, is_alone: bool) -> bool:
    """Begin an item among the others; return False if there is no room for it now."""
    if work.request is None:
        return True
    if work.rows is not None and flight.has_room(work.rows):
        flight.join(work.rows)
        return True
    if not is_alone:
        return False
    try:
        work.rows, work.events = None, list(session.run(work.request))
    except (ImageError, OptionError, PromptError) as error:  # what only the bundle can tell
        work.request, work.error = None, str(error)
    return True


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
