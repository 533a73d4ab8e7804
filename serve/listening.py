"""From a worker's thread to a client: a job's events, until it ends, fails or the client leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from janus_edge.runtime.events import Event
from janus_edge.serve.errors import body_of, refused
from janus_edge.serve.worker import Job, Worker
from janus_edge.serve.worker import Request as Work

ALIVE_S = 15.0  # a stream that says nothing for so long says that it lives


class Gone(Exception):
    """The client has left."""


class Listener:
    """The events of a job, in the server's event loop."""

    def __init__(self, request: Request, timeout_s: float) -> None:
        """Listen to nothing yet."""
        self._events: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._ends = self._loop.time() + timeout_s
        self._left = asyncio.ensure_future(_left(request))
        self._next: asyncio.Task[Event | Exception | None] | None = None

    def deliver(self, event: Event | Exception | None) -> None:
        """Take an event in the worker's thread."""
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
        left_s = self._ends - self._loop.time()
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
        if self._loop.time() >= self._ends:
            raise TimeoutError
        raise _Quiet

    def close(self) -> None:
        """Listen no longer."""
        self._left.cancel()
        if self._next is not None:
            self._next.cancel()


class _Quiet(Exception):
    """Nothing happened for a while."""


@asynccontextmanager
async def listening(
    request: Request, worker: Worker, work: Work, timeout_s: float
) -> AsyncIterator[tuple[Job, Listener]]:
    """Submit work and listen to it; however the block ends, the work ends with it."""
    listener = Listener(request, timeout_s)
    try:
        job = await asyncio.to_thread(worker.submit, work, listener.deliver)
        try:
            yield job, listener
        finally:
            worker.cancel(job)
    finally:
        listener.close()


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


def event_stream(events: AsyncIterator[str]) -> StreamingResponse:
    """Return a response of server-sent events."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_told(events), media_type="text/event-stream", headers=headers)


async def _told(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """Pass events on; an error becomes the last one."""
    try:
        async for event in events:
            yield event
    except Gone:
        return
    except Exception as error:
        yield sent(body_of(refused(error)), "error")


def sent(document: Any, name: str | None = None) -> str:
    """Return a server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(document)}\n\n"


QUIET = ": still working\n\n"
