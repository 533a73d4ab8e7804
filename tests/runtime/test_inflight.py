"""In-flight batching: whatever runs beside a drawing or an answer, it is what it is alone."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.events import Finished, Image, Preview, Progress, Text
from janus_edge.runtime.inflight import InFlight
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.sequences import Sequence
from janus_edge.runtime.session import Session

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ("a red circle", "two blue squares", "a green star", "three yellow circles on white")


@pytest.fixture(params=["tiny-janus", "int4"])
def session(request: pytest.FixtureRequest) -> Session:
    """One on ONNX Runtime, one on the CPU kernels."""
    is_int4 = request.param == "int4"
    folder = request.getfixturevalue("int4_dir") if is_int4 else request.param
    return Session(open_bundle(folder), num_threads=1)


def requests() -> list[ImageRequest | AskRequest]:
    """Drawings with and without guidance, sampled and greedy; questions about noise and nothing."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return [
        *(ImageRequest(prompt=each, seed=i, previews=i == 1) for i, each in enumerate(PROMPTS)),
        ImageRequest(prompt="a star", seed=9, guidance_scale=1.0),
        ImageRequest(prompt="a star", seed=9, guidance_end=0.5, temperature=0.0),
        AskRequest(question="what colour is it?", images=[noise]),
        AskRequest(question="what is this?", images=[noise], temperature=1.0, seed=3),
        AskRequest(question="how many?", max_tokens=1),
    ]


def outcome(events: list[object]) -> tuple[object, ...]:
    """What a request gave: codes and pixels, previews, text."""
    assert isinstance(events[-1], Finished)
    images = [(e.codes.tobytes(), e.pixels.tobytes()) for e in events if isinstance(e, Image)]
    previews = [(e.done, e.pixels.tobytes()) for e in events if isinstance(e, Preview)]
    return images, previews, "".join(e.text for e in events if isinstance(e, Text))


def alone(session: Session, request: ImageRequest | AskRequest) -> tuple[object, ...]:
    is_drawing = isinstance(request, ImageRequest)
    return outcome(list(session.generate_image(request) if is_drawing else session.ask(request)))


def run(flight: InFlight, sequences: list[Sequence], seed: int) -> None:
    """Let them join at random moments."""
    rng, waiting = random.Random(seed), list(sequences)
    rng.shuffle(waiting)
    while waiting or flight.is_busy:
        while waiting and flight.has_room(waiting[0]) and rng.random() < 0.3:
            flight.join(waiting.pop())
        if flight.is_busy:
            flight.step()


@pytest.mark.parametrize("threads", [1, 2])
def test_each_is_as_alone(session: Session, threads: int) -> None:
    """With two threads, images are decoded beside passes."""
    expected = [alone(session, each) for each in requests()]
    together = Session(session.bundle, num_threads=threads)
    for seed in range(2):
        sequences = [together.sequences(each)[0] for each in requests()]
        run(together.in_flight(), sequences, seed)
        assert [outcome(list(each.events)) for each in sequences] == expected


def test_one_that_leaves_changes_no_other(session: Session) -> None:
    """Its rows are given to those behind it, then to those that come."""
    expected = [alone(session, each) for each in requests()[:4]]
    flight = session.in_flight()
    first, *others = [session.sequences(each)[0] for each in requests()[:4]]
    again = session.sequences(requests()[0])[0]
    for each in (first, *others[:2]):
        flight.join(each)
    for _ in range(5):
        flight.step()
    flight.leave(first)
    run(flight, [others[2], again], 0)
    found = [outcome(list(each.events)) for each in (again, *others)]
    assert found == expected
    assert not any(isinstance(each, Image) for each in first.events)


def test_rows_that_moved_keep_their_part(session: Session) -> None:
    """A guided image whose unconditional row moves before its conditional one."""
    drawing, question = requests()[2], requests()[6]
    expected = alone(session, drawing)
    flight = session.in_flight()
    first, between, last = (session.sequences(r)[0] for r in (drawing, question, drawing))
    for each in (first, between, last):
        flight.join(each)
    flight.leave(between)
    run(flight, [], 0)
    assert outcome(list(first.events)) == outcome(list(last.events)) == expected


def test_progress_counts_every_code(session: Session) -> None:
    (sequence,) = session.sequences(requests()[1])
    run(session.in_flight(), [sequence], 0)
    done = [each.done for each in sequence.events if isinstance(each, Progress)]
    assert done == sorted(set(done)) and done[-1] == 64


def test_no_more_rows_than_there_are(session: Session) -> None:
    flight = session.in_flight()
    sequences = [session.sequences(requests()[0])[0] for _ in range(flight.num_rows // 2 + 1)]
    for each in sequences[:-1]:
        assert flight.has_room(each)
        flight.join(each)
    assert not flight.has_room(sequences[-1]) and flight.can_take(sequences[-1])
    flight.leave(sequences[0])
    assert flight.has_room(sequences[-1])


def test_what_runs_alone() -> None:
    """A flow's drawings, and rows of codes that overlap; a flow's answers share passes."""
    flow = Session(open_bundle("tiny-flow"), num_threads=1)
    assert flow.sequences(ImageRequest(prompt="a star")) == []
    request = AskRequest(question="what is this?")
    (answer,) = flow.sequences(request)
    run(flow.in_flight(), [answer], 0)
    assert outcome(list(answer.events)) == alone(flow, request)
    janus = Session(open_bundle("tiny-janus"), num_threads=1)
    assert janus.sequences(ImageRequest(prompt="a star", window=4)) == []
