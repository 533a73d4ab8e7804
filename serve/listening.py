"""From a worker's thread to a client: a job's events, until it ends, fails or the client leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from janus_edge.runtime.events import Event, Progress
from janus_edge.serve.errors import body_of, noted
from janus_edge.serve.worker import Job, Worker
from janus_edge.serve.worker import Request as Work

ALIVE_S = 15.0  # a stream that says nothing for so long says that it lives


class Gone(Exception):
    """The client has left."""


class Listener:
    """The events of a job, in the server's event loop. Its ``close`` ends the job.

    Attributes:
        job: The job.
        ends: When the request has taken too long, by the event loop's clock.
    """

    job: Job

    def __init__(self, request: Request, ends: float, wants: Callable[[Event], bool]) -> None:
        """Listen to nothing yet.

        Args:
            request: The client's request.
            ends: When it has taken too long, by the event loop's clock.
            wants: Whether an event is kept until it is asked for; called in the worker's thread.
        """
        self._events: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self.ends, self._wants = ends, wants
        self._left = asyncio.ensure_future(_left(request))
        self._next: asyncio.Task[Event | Exception | None] | None = None
        self._cancel: Callable[[], None] = lambda: None

    async def submit(self, worker: Worker, work: Work) -> None:
        """Give work to a worker. Raises what ``Worker.submit`` raises."""
        self.job = job = await asyncio.to_thread(worker.submit, work, self._deliver)
        self._cancel = lambda: worker.cancel(job)

    def _deliver(self, event: Event | Exception | None) -> None:
        """Take an event in the worker's thread."""
        if event is None or isinstance(event, Exception) or self._wants(event):
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def next(self, wait_s: float | None = None) -> Event | None:
        """Return the next event; None after the last one.

        Args:
            wait_s: The longest time to wait; then it raises asyncio.TimeoutError and can be asked
                again. None waits as long as the request may take.

        Raises:
            Gone: The client has left.
            TimeoutError: The request took too long, or see ``wait_s``.
            Exception: What ended the job.
        """
        if self._next is None:
            self._next = asyncio.ensure_future(self._events.get())
        left_s = self.ends - self._loop.time()
        wait = max(0.0, left_s if wait_s is None else min(wait_s, left_s))
        both = asyncio.FIRST_COMPLETED
        done, _ = await asyncio.wait({self._next, self._left}, timeout=wait, return_when=both)
        if self._next in done:
            event, self._next = self._next.result(), None
            if isinstance(event, Exception):
                raise event
            return event
        if done:
            raise Gone
        if self._loop.time() >= self.ends:
            raise TimeoutError
        raise _Quiet

    def close(self) -> None:
        """Listen no longer, and end the job."""
        self._cancel()
        self._left.cancel()
        if self._next is not None:
            self._next.cancel()


class _Quiet(Exception):
    """Nothing happened for a while."""


def ends_of(request: Request) -> float:
    """Return when a request that has just come will have taken too long (event loop's clock)."""
    timeout_s: float = request.app.state.settings.timeout_s
    return asyncio.get_running_loop().time() + timeout_s


async def listen(
    request: Request,
    worker: Worker,
    work: Work,
    ends: float,
    wants: Callable[[Event], bool] = lambda event: not isinstance(event, Progress),
) -> Listener:
    """Submit work and return what listens to it; the caller closes it.

    Args:
        request: The client's request, whose body has been read.
        worker: The bundle's worker.
        work: What it shall do.
        ends: When the request has taken too long, by the event loop's clock.
        wants: Whether an event is kept until it is asked for; called in the worker's thread.

    Raises:
        JanusEdgeError: The request does not fit the bundle.
        Busy: Too many wait.
        Stopping: The server stops.
    """
    listener = Listener(request, ends, wants)
    try:
        await listener.submit(worker, work)
    except BaseException:
        listener.close()
        raise
    return listener


async def each_event(listener: Listener) -> AsyncIterator[Event | None]:
    """Yield the events; None each time nothing has happened for a while."""
    while True:
        try:
            event = await listener.next(ALIVE_S)
        except _Quiet:
            yield None
            continue
        if event is None:
            return
        yield event


async def _left(request: Request) -> None:
    """Return when the client has left. Its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """A response of server-sent events about a job, which ends with it."""

    def __init__(self, path: str, listener: Listener, events: AsyncIterator[str]) -> None:
        """Send nothing yet.

        Args:
            path: The request's path, for the log.
            listener: What listens to the job.
            events: The server-sent events.
        """
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_told(path, events), media_type="text/event-stream", headers=headers)
        self._listener = listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, for as long as the request may take, also if nobody reads them."""
        loop = asyncio.get_running_loop()

        async def in_time(message: Message) -> None:
            left_s = self._listener.ends - loop.time()
            await asyncio.wait_for(send(message), max(1.0, left_s))

        try:
            with contextlib.suppress(TimeoutError, ClientDisconnect):  # nobody reads
                await super().__call__(scope, receive, in_time)
        finally:
            self._listener.close()


async def _told(path: str, events: AsyncIterator[str]) -> AsyncIterator[str]:
    """Pass events on; an error becomes the last one."""
    try:
        async for event in events:
            yield event
    except Gone:
        return
    except Exception as error:
        yield sent(body_of(noted(path, error)), "error")


def sent(document: Any, name: str | None = None) -> str:
    """Return a server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(document)}\n\n"


QUIET = ": still working\n\n"
