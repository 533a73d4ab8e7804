from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage

from janus_edge.runtime.backends import Engine, Shared, load_engine
from janus_edge.runtime.bundle import Bundle, open_bundle
from janus_edge.runtime.errors import OptionError, PromptError
from janus_edge.runtime.events import Event, Finished, Image, Preview, Progress, Text
from janus_edge.runtime.prompt import Turn
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session

GREY = PilImage.new("RGB", (20, 20), "grey")


def events_of(session: Session, **options: object) -> list[Event]:
    return list(session.generate_image(ImageRequest(prompt="a red star", **options)))


def test_events_come_in_order(session: Session) -> None:
    events = events_of(session, num_images=2, previews=True)
    kinds = [type(event) for event in events]
    assert kinds == [
        kind
        for position in range(16)
        for kind in ([Progress] + [Preview, Preview] * (position % 4 == 3))
    ] + [Image, Image, Finished]
    progress = [event for event in events if isinstance(event, Progress)]
    assert [event.done for event in progress] == list(range(2, 34, 2))
    assert {event.total for event in progress} == {32}
    times = [event.elapsed_ms for event in events if not isinstance(event, Finished)]
    assert times == sorted(times) and times[0] > 0


def test_engines_open_when_they_are_needed(
    bundle_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def load(bundle: Bundle, name: str, shared: Shared) -> Engine:
        opened.append(name)
        return load_engine(bundle, name, shared)

    monkeypatch.setattr("janus_edge.runtime.engines.load_engine", load)
    events = Session(open_bundle(bundle_dir)).generate_image(ImageRequest(prompt="a star"))
    next(events)
    assert sorted(opened) == ["decoder", "image_head"]
    list(events)
    assert opened[2:] == ["image_decoder"]


@pytest.mark.parametrize("num_threads", [-1, 100_000])
def test_no_such_number_of_threads(bundle_dir: Path, num_threads: int) -> None:
    with pytest.raises(OptionError, match=f"num_threads is {num_threads}; give 0 to 1024"):
        Session(open_bundle(bundle_dir), num_threads=num_threads)


def test_timings_add_up(session: Session) -> None:
    (finished,) = (e for e in events_of(session) if isinstance(e, Finished))
    parts = dict(finished.timings_ms)
    total = parts.pop("total")
    assert set(parts) == {"open", "prefill", "decode", "image_decoder"}
    assert 0 < sum(parts.values()) <= total


def test_images_have_their_codes(session: Session) -> None:
    (image,) = (e for e in events_of(session, seed=3) if isinstance(e, Image))
    assert image.pixels.shape == (32, 32, 3) and image.pixels.dtype == np.uint8
    assert image.codes.shape == (16,) and image.codes.min() >= 0 and image.codes.max() < 40
    assert image.seed == 3


def test_greedy_needs_no_seed(session: Session) -> None:
    drawn = [
        next(e for e in events_of(session, seed=seed, temperature=0.0) if isinstance(e, Image))
        for seed in (1, 2)
    ]
    assert drawn[0].codes.tolist() == drawn[1].codes.tolist()


def test_answers_stream(session: Session) -> None:
    request = AskRequest(images=(GREY,), question="what?", max_tokens=20)
    events = list(session.ask(request))
    assert isinstance(events[-1], Finished)
    assert {"open", "vision", "prefill", "decode", "total"} >= set(events[-1].timings_ms)
    texts = [event.text for event in events[:-1] if isinstance(event, Text)]
    assert len(texts) == len(events) - 1 and all(texts)


def test_sampled_answers_follow_the_seed(session: Session) -> None:
    def said(seed: int) -> str:
        request = AskRequest(
            images=(GREY,), question="what?", max_tokens=12, temperature=2.0, top_p=0.95, seed=seed
        )
        return "".join(e.text for e in session.ask(request) if isinstance(e, Text))

    assert said(1) == said(1)
    assert len({said(seed) for seed in range(4)}) > 1


def test_asks_on_with_more_images(session: Session) -> None:
    before = Turn(message="what?", num_images=1, answer="a star")
    request = AskRequest(images=(GREY, GREY), question="and?", history=(before,), max_tokens=4)
    assert [turn.num_images for turn in request.turns] == [1, 1]
    assert isinstance(list(session.ask(request))[-1], Finished)
    assert isinstance(list(session.ask(AskRequest(question="hi", max_tokens=2)))[-1], Finished)
    with pytest.raises(OptionError, match="number of images"):
        AskRequest(question="and?", history=(before,))
    with pytest.raises(OptionError, match="no answer"):
        AskRequest(question="and?", history=(Turn(message="what?"),))


def test_errors_come_before_the_work(session: Session) -> None:
    with pytest.raises(PromptError, match="empty"):
        session.generate_image(ImageRequest(prompt="\n"))
    with pytest.raises(PromptError, match="room for 80"):
        session.generate_image(ImageRequest(prompt="star " * 90))
    with pytest.raises(PromptError, match="question"):
        session.ask(AskRequest(images=(GREY,), question="star " * 90))


def test_a_prompt_that_just_fits(session: Session) -> None:
    """The context is 96 positions, 16 of them codes."""
    encoder = session.bundle.encoder
    words = 1
    while len(encoder.generation("star " * (words + 1))) <= 80:
        words += 1
    events = list(session.generate_image(ImageRequest(prompt="star " * words)))
    assert isinstance(events[-1], Finished)
    with pytest.raises(PromptError):
        session.generate_image(ImageRequest(prompt="star " * (words + 1)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_images", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("guidance_scale", float("nan")),
        ("guidance_scale", -0.5),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
    ],
)
def test_values_out_of_range(name: str, value: float) -> None:
    with pytest.raises(OptionError, match=name):
        ImageRequest(prompt="x", **{name: value})


def test_requests_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ImageRequest(prompt="x").seed = 3


def test_threads_take_turns(session: Session) -> None:
    """One request's events on three threads come once each; requests at once draw what they draw
    alone."""
    alone = [events_of(session, num_images=2, seed=seed) for seed in range(3)]
    shared = session.generate_image(ImageRequest(prompt="a red star", num_images=2))
    found: list[list[Event]] = [[] for _ in range(6)]

    def take(index: int) -> None:
        if index < 3:
            found[index] = events_of(session, num_images=2, seed=index)
        else:
            found[index] = list(shared)

    threads = [threading.Thread(target=take, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for events, expected in zip(found, alone, strict=False):
        assert images_of(events) == images_of(expected)
    assert sum(map(len, found[3:])) == len(alone[0])
    assert sorted(images_of([e for part in found[3:] for e in part])) == images_of(alone[0])


def images_of(events: list[Event]) -> list[tuple[int, bytes]]:
    return [(event.index, event.pixels.tobytes()) for event in events if isinstance(event, Image)]


def test_a_request_can_be_ended(session: Session) -> None:
    events = session.generate_image(ImageRequest(prompt="a red star"))
    next(events)
    events.close()
    assert list(events) == []
