"""Workers and the bundles that are kept open."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.requests import Request

from janus_edge.runtime.bundle import SHIPPED, open_bundle
from janus_edge.runtime.errors import BundleError
from janus_edge.runtime.events import Finished, Image, Progress
from janus_edge.runtime.inflight import InFlight
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session
from janus_edge.serve.listening import EventStream, listen
from janus_edge.serve.models import Models, UnknownModel
from janus_edge.serve.worker import Busy, Stopping, Worker

STAR = ImageRequest(prompt="a star", seed=1)


def worker(most_waiting: int = 64, num_threads: int = 1) -> Worker:
    return Worker(Session(open_bundle("tiny-janus"), num_threads=num_threads), most_waiting)


def until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.001)


def rest(events: queue.Queue[Any]) -> list[Any]:
    """All events up to the end of a job."""
    return list(iter(lambda: events.get(timeout=60), None))


def test_a_client_that_leaves_frees_its_rows_within_two_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps, gone, step = [0], threading.Event(), InFlight.step

    def counted(flight: InFlight) -> None:
        steps[0] += not gone.is_set()
        step(flight)

    monkeypatch.setattr(InFlight, "step", counted)
    made, events = worker(), queue.Queue[Any]()
    other = queue.Queue[Any]()
    made.submit(ImageRequest(prompt="a circle", seed=2), other.put)
    job = made.submit(STAR, events.put)
    until(lambda: events.qsize() > 5)
    before = steps[0]
    made.cancel(job)
    until(lambda: made.num_running < 2)
    assert steps[0] - before <= 2
    gone.set()
    assert isinstance(rest(other)[-1], Finished)  # the other is whole
    assert not any(isinstance(each, Image) for each in list(events.queue))
    made.stop()


def test_one_that_fails_ends_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that fails ends all that share it; what comes later runs."""
    made, events = worker(), queue.Queue[Any]()

    def broken(flight: InFlight) -> None:
        raise BundleError("decoder: computes what is no finite number")

    with monkeypatch.context() as patch:
        patch.setattr(InFlight, "step", broken)
        made.submit(STAR, events.put)
        until(lambda: any(isinstance(each, BundleError) for each in list(events.queue)))
    fresh = queue.Queue[Any]()
    made.submit(STAR, fresh.put)
    assert isinstance(rest(fresh)[-1], Finished)
    made.stop()


class Decoder:
    """The image decoder of a worker's other thread; it waits until it may go on."""

    def __init__(self, made: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
        beside = made.session._engines.beside
        assert beside is not None
        engine = beside._engines["image_decoder"]
        self.begun, self.goes_on, run = threading.Event(), threading.Event(), engine.run

        def wait(inputs: Any) -> Any:
            self.begun.set()
            assert self.goes_on.wait(60)
            return run(inputs)

        monkeypatch.setattr(engine, "run", wait)


@pytest.mark.parametrize("cancels", [False, True])
def test_an_image_is_decoded_while_others_go_on(
    monkeypatch: pytest.MonkeyPatch, *, cancels: bool
) -> None:
    """Neither requests that run nor one that comes wait for the image, cancelled or not."""
    made, first, second = worker(num_threads=2), queue.Queue[Any](), queue.Queue[Any]()
    decoder = Decoder(made, monkeypatch)
    job = made.submit(STAR, first.put)
    until(lambda: first.qsize() > 20)
    made.submit(ImageRequest(prompt="a circle", seed=2), second.put)
    assert decoder.begun.wait(60)
    if cancels:
        made.cancel(job)
    image = next(each for each in rest(second) if isinstance(each, Image))
    third = queue.Queue[Any]()
    made.submit(ImageRequest(prompt="a circle", seed=2), third.put)
    (again,) = (each for each in rest(third) if isinstance(each, Image))
    assert again.pixels.tobytes() == image.pixels.tobytes()
    assert not any(isinstance(each, Image) for each in list(first.queue))
    decoder.goes_on.set()
    if not cancels:
        assert [type(each) for each in rest(first)[-2:]] == [Image, Finished]
    assert made.stop() == 0


def test_an_image_that_cannot_be_decoded_ends_its_own_job(monkeypatch: pytest.MonkeyPatch) -> None:
    made, good, bad = worker(num_threads=2), queue.Queue[Any](), queue.Queue[Any]()
    engine = made.session._engines["image_decoder"]
    run, is_first = engine.run, [True]

    def fails_once(inputs: Any) -> Any:
        if is_first.pop() if is_first else False:
            raise BundleError("image_decoder: computes what is no finite number")
        return run(inputs)

    monkeypatch.setattr(engine, "run", fails_once)
    made.session._engines.beside = None
    made.submit(ImageRequest(prompt="a star", num_images=2), bad.put)
    until(lambda: bad.qsize() > 5)
    made.submit(STAR, good.put)
    assert isinstance(rest(good)[-1], Finished)
    until(lambda: isinstance(list(bad.queue)[-1], BundleError))
    until(lambda: made.num_running == 0)
    assert sum(isinstance(each, BundleError | None) for each in list(bad.queue)) == 1
    made.stop()


def test_a_queue_has_an_end() -> None:
    made, events = worker(most_waiting=2), queue.Queue[Any]()
    many = ImageRequest(prompt="a star", num_images=20)
    made.submit(many, events.put)  # the first may be as long as it is
    until(lambda: made.num_running == 8)
    with pytest.raises(Busy):
        made.submit(STAR, events.put)
    assert sum(isinstance(each, Image) for each in rest(events)) == 20
    assert made.stop() == 0
    with pytest.raises(Stopping):
        made.submit(STAR, events.put)


def test_those_who_leave_leave_the_queue() -> None:
    made, events = worker(most_waiting=2), queue.Queue[Any]()
    running = made.submit(ImageRequest(prompt="a star", num_images=8), events.put)
    until(lambda: made.num_running == 8)
    for _ in range(20):
        waiting = [made.submit(STAR, events.put) for _ in range(2)]
        for job in waiting:
            made.cancel(job)
    assert made.num_waiting == 0
    made.cancel(running)
    assert made.stop() == 0


def test_stop_says_how_many_are_lost() -> None:
    made, events = worker(), queue.Queue[Any]()
    for _ in range(3):
        made.submit(ImageRequest(prompt="a star", num_images=8), events.put)
    assert made.stop(wait=False) == 3
    assert sum(isinstance(each, Stopping) for each in list(events.queue)) == 3


def test_bundles_within_a_budget() -> None:
    """An idle one is closed for another; one that works is not."""
    folders = {name: SHIPPED / name for name in ("tiny-janus", "tiny-flow")}
    models = Models(folders, memory_mb=1, most_waiting=64, num_threads=1)
    first = models.worker(None)
    assert list(models.open) == ["tiny-janus"] and models.worker("tiny-janus") is first
    events = queue.Queue[Any]()
    first.submit(ImageRequest(prompt="a star", num_images=20), events.put)
    with pytest.raises(Busy):
        models.worker("tiny-flow")
    assert any(isinstance(each, Progress) for each in rest(events))
    until(lambda: first.num_running == 0)
    models.worker("tiny-flow")
    assert list(models.open) == ["tiny-flow"]
    with pytest.raises(Busy):  # a request that had found it before it was closed
        first.submit(STAR, events.put)
    with pytest.raises(UnknownModel):
        models.worker("../tiny-janus")
    assert models.stop(wait=True) == 0
    with pytest.raises(Stopping):
        models.worker("tiny-flow")


def test_one_that_opens_holds_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens once for all who ask; it fails for all of them, and can be asked for again."""
    folders = {name: SHIPPED / name for name in ("tiny-janus", "tiny-flow")}
    models = Models(folders, memory_mb=1000, most_waiting=64, num_threads=1)
    first, goes_on = models.worker("tiny-janus"), threading.Event()

    def damaged(folder: Any) -> Any:
        assert goes_on.wait(60)
        raise BundleError("damaged")

    with monkeypatch.context() as patch:
        patch.setattr("janus_edge.serve.models.open_bundle", damaged)
        opening = models.opened("tiny-flow")
        assert models.opened("tiny-flow") is opening and not opening.cancel()
        assert models.worker("tiny-janus") is first and not opening.done()
        goes_on.set()
        with pytest.raises(BundleError):
            opening.result(60)
    assert models.worker("tiny-flow") is models.worker("tiny-flow")
    assert models.stop(wait=True) == 0


def test_a_client_that_reads_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The job ends when its time is over; an error of the server's own is in the log."""

    async def receive() -> dict[str, str]:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def stuck(message: Any) -> None:
        await asyncio.Event().wait()

    async def failing() -> AsyncIterator[str]:
        yield "data: x"
        raise ValueError("broken")

    async def run() -> int:
        made, scope = worker(), {"type": "http", "asgi": {"spec_version": "2.4"}}
        ends = asyncio.get_running_loop().time()
        work = ImageRequest(prompt="a star", num_images=20)
        listener = await listen(Request(scope, receive), made, work, ends)
        await EventStream("/x", listener, failing())(scope, receive, stuck)
        assert listener.job.is_over
        bodies: list[bytes] = []

        async def keep(message: Any) -> None:
            bodies.append(message.get("body", b""))

        await EventStream("/x", listener, failing())(scope, receive, keep)
        assert b"unexpected ValueError" in bodies[2]
        return made.stop()

    assert asyncio.run(run()) == 0
    assert "/x: ValueError: broken" in caplog.messages
