"""A bundle's worker: one thread that runs the requests of all clients.

Requests wait in the order in which they came. What shares passes joins those that run; what must
run alone waits until they are done (docs/serving.md).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from janus_edge.runtime.events import Event
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.sequences import Sequence
from janus_edge.runtime.session import Session

LOG = logging.getLogger("janus_edge.serve")

Request = ImageRequest | AskRequest
Deliver = Callable[[Event | Exception | None], None]
"""Takes a request's events, then None or what ended it. Called in the worker's thread."""


class Busy(Exception):
    """Too many requests wait."""


class Stopping(Exception):
    """The server stops and takes no more requests."""


@dataclass(eq=False)
class Job:
    """A request in a worker.

    Attributes:
        request: The request.
        deliver: Takes what happens.
        sequences: Its images or answer; empty if it runs alone.
        left: How many sequences are not finished.
        is_over: True once it has ended or was cancelled; nothing is delivered any more.
        began: When it came, in seconds of ``time.monotonic``.
        first_s: Seconds until its first code, token or step; None before.
    """

    request: Request
    deliver: Deliver
    sequences: list[Sequence]
    left: int
    is_over: bool = False
    began: float = field(default_factory=time.monotonic)
    first_s: float | None = None

    @property
    def size(self) -> int:
        """How many images or answers it asks for."""
        return max(1, len(self.sequences))


class Worker:
    """Runs requests on one session, in a thread of its own."""

    def __init__(
        self, session: Session, most_waiting: int, report: Callable[[Job], None] = lambda job: None
    ) -> None:
        """Start the thread.

        Args:
            session: An open session; nobody else uses it.
            most_waiting: How many images and answers may wait.
            report: Called in the thread with each job that ended.
        """
        self.session, self.most_waiting, self._report = session, most_waiting, report
        self._flight = session.in_flight()
        self._waiting: deque[tuple[Job, Sequence | None]] = deque()
        self._owners: dict[Sequence, Job] = {}
        self._changed = threading.Condition()
        self._refusal: type[Exception] | None = None  # once it takes no more
        self._alone: Job | None = None
        self.last_used = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="janus-edge worker", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """How many images and answers wait."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """How many images and answers are computed now."""
        return len(self._owners) + (self._alone is not None)

    def submit(self, request: Request, deliver: Deliver) -> Job:
        """Take a request.

        Args:
            request: The request.
            deliver: Takes what happens.

        Raises:
            JanusEdgeError: The request does not fit the bundle.
            Busy: Too many wait, or the worker was stopped to make room for another.
            Stopping: The server stops.
        """
        sequences = self.session.sequences(request)
        if not all(map(self._flight.can_take, sequences)):
            sequences = []
        job = Job(request, deliver, sequences, max(1, len(sequences)))
        with self._changed:
            if self._refusal is not None:
                raise self._refusal
            if self._waiting and len(self._waiting) + job.size > self.most_waiting:
                raise Busy
            parts: list[Sequence | None] = [*sequences] or [None]
            self._waiting.extend((job, each) for each in parts)
            self.last_used = time.monotonic()
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """End a job where it is; its rows are free at the next pass, its place in the queue now."""
        with self._changed:
            job.is_over = True
            self._waiting = deque(each for each in self._waiting if each[0] is not job)
            self._changed.notify()

    def stop(self, wait: bool = True, refusal: type[Exception] = Stopping) -> int:
        """Take no more requests.

        Args:
            wait: True to finish what was taken; False to end it after the pass that runs.
            refusal: What ``submit`` raises from now on.

        Returns:
            How many requests were not finished.
        """
        with self._changed:
            self._refusal = refusal
            jobs = {*self._owners.values(), *(job for job, _ in self._waiting)}
            jobs |= set() if self._alone is None else {self._alone}
            lost = [] if wait else [job for job in jobs if not job.is_over]
            for job in lost:
                job.deliver(Stopping())
                job.is_over = True
            self._changed.notify()
        self._thread.join(None if wait else 60)
        return len(lost)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._owners or self._refusal):
                    self._changed.wait()
                if self._refusal and not (self._waiting or self._owners):
                    return
            try:
                self._drop_cancelled()
                self._admit()
                if self._owners:
                    self._flight.step()
                self._deliver_all()
            except Exception as error:  # of one pass, which all that run share
                self._fail(error)

    def _drop_cancelled(self) -> None:
        """Free the rows of what nobody waits for."""
        for sequence, job in list(self._owners.items()):
            if job.is_over:
                self._owners.pop(sequence)
                self._flight.leave(sequence)

    def _admit(self) -> None:
        """Start what waits, in order, as far as there is room."""
        while (found := self._next()) is not None:
            job, sequence = found
            try:
                if sequence is None:
                    self._run_alone(job)
                else:
                    self._owners[sequence] = job
                    self._flight.join(sequence)
                    self._deliver(sequence)
            except Exception as error:  # of its prompt; the others go on
                self._owners.pop(sequence, None) if sequence is not None else None
                self._end(job, error)

    def _next(self) -> tuple[Job, Sequence | None] | None:
        """Take the first that waits, if there is room for it now."""
        with self._changed:
            if not self._waiting:
                return None
            _, sequence = self._waiting[0]
            has_room = not self._owners if sequence is None else self._flight.has_room(sequence)
            return self._waiting.popleft() if has_room else None

    def _run_alone(self, job: Job) -> None:
        self._alone = job
        try:
            events: Any = self.session.run(job.request)
            with closing(events):
                for event in events:
                    self._give(job, event)
                    if job.is_over:
                        break
        finally:
            self._alone = None
        self._end(job)

    def _deliver_all(self) -> None:
        for sequence in list(self._owners):
            self._deliver(sequence)

    def _deliver(self, sequence: Sequence) -> None:
        """Hand over what happened to a sequence; end its job with its last one."""
        job = self._owners[sequence]
        while sequence.events:
            self._give(job, sequence.events.popleft())
        if sequence.is_over:
            self._owners.pop(sequence)
            # one that fails ends its job, once
            job.left = job.left - 1 if sequence.error is None else min(job.left - 1, 0)
            if job.left == 0:
                self._end(job, sequence.error)

    def _give(self, job: Job, event: Event) -> None:
        if job.first_s is None:
            job.first_s = time.monotonic() - job.began
        if not job.is_over:
            job.deliver(event)

    def _end(self, job: Job, error: Exception | None = None) -> None:
        if not job.is_over:
            job.deliver(error)
        job.is_over = True
        self.last_used = time.monotonic()
        self._report(job)

    def _fail(self, error: Exception) -> None:
        """End all that run with an error; what waits goes on in fresh rows."""
        LOG.exception("a pass failed")
        for job in set(self._owners.values()):
            self._end(job, error)
        self._owners.clear()
        self._flight.stop()
        self._flight = self.session.in_flight()
