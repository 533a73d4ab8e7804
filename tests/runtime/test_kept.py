"""What a session keeps for later requests: results as computed afresh, within its room."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from janus_edge.runtime import answer
from janus_edge.runtime.backends import Engine, Shared, cpu_kernels, load_engine
from janus_edge.runtime.bundle import Bundle, open_bundle
from janus_edge.runtime.conversation import Conversation
from janus_edge.runtime.decode import decode_text, looked_up
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.events import Finished, Image, Text
from janus_edge.runtime.kept import Context, Kept, image_digest, image_key
from janus_edge.runtime.prompt import Turn
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session

BOUND = 1e-3  # docs/decoding.md


def _context(*key: int, heads: int = 2) -> Context:
    """A context whose values tell its positions."""
    values = np.array(key, np.float32)[None, :, None] * np.ones((heads, 1, 4), np.float32)
    return Context(np.array(key), [values, -values])


def _found(kept: Kept, *key: int) -> list[int] | None:
    context = kept.find(np.array(key))
    if context is None:
        return None
    keys, values = context.caches
    assert np.array_equal(keys[0, :, 0], context.key_T) and np.array_equal(values, -keys)
    return context.key_T.tolist()


def test_the_longest_beginning_is_found() -> None:
    kept = Kept(10**6)
    assert _found(kept, 1, 2) is None
    for key in ((1, 2, 3, 4), (1, 2, 7), (8, 9)):
        kept.keep(_context(*key))
    assert _found(kept, 1, 2, 3, 5, 6) == [1, 2, 3]
    assert _found(kept, 1, 2, 7, 7) == [1, 2, 7]
    assert _found(kept, 1, 5) == [1]
    assert _found(kept, 5, 1) is None and _found(kept) is None


def test_a_context_takes_the_place_of_those_it_continues() -> None:
    kept = Kept(10**6)
    kept.keep(_context(1, 2))
    size = kept.num_bytes
    kept.keep(_context(1, 2, 3, 4))
    assert kept.num_bytes == 2 * size
    kept.keep(_context(1, 2, 3))  # known, and more
    assert kept.num_bytes == 2 * size
    assert _found(kept, 1, 2, 3, 4, 5) == [1, 2, 3, 4]


def test_what_was_used_longest_ago_goes_first() -> None:
    size = 8 + 2 * 2 * 4 * 4  # of a position: its key, and two arrays of two heads
    kept = Kept(6 * size + 100)
    kept.keep_image(b"a", np.zeros(25, np.float32))
    for first in (10, 20, 30):
        kept.keep(_context(first, first + 1))
    assert _found(kept, 10, 11, 12) == [10, 11]  # used
    assert kept.image(b"a") is not None  # used
    kept.keep(_context(40, 41))
    assert [_found(kept, first) for first in (10, 30, 40, 20)] == [[10], [30], [40], None]
    assert kept.image(b"a") is not None and kept.num_bytes == 6 * size + 100
    kept.keep_image(b"b", np.zeros(25, np.float32))
    assert _found(kept, 10) is None and kept.image(b"a") is not None
    kept.keep(_context(*range(100)))  # larger than all the room: the others stay
    assert _found(kept, 0, 1) is None and _found(kept, 40) == [40]
    assert kept.num_bytes <= kept.most_bytes


def test_images_do_not_crowd_contexts_out() -> None:
    kept = Kept(1000)
    for index in range(50):
        kept.keep_image(bytes([index]), np.zeros(25, np.float32))
    kept.keep(_context(1, 2, 3))
    assert _found(kept, 1, 2, 3) == [1, 2, 3] and kept.image(bytes([49])) is not None


def test_iterators_may_be_dropped_on_any_thread(folder: Path) -> None:
    """Their ends change what is kept while other threads ask."""
    session, failed = Session(open_bundle(folder), num_threads=1), list[str]()

    def ask_on() -> None:
        try:
            for number in range(15):
                request = AskRequest(question=f"how many {number}?", max_tokens=4)
                if number % 3:
                    next(iter(session.ask(request)))  # and drop it
                else:
                    list(session.ask(request))
        except Exception as error:
            failed.append(repr(error))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=ask_on) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failed


def test_images_are_told_apart() -> None:
    one, other = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    keys = [image_key(image_digest(each)) for each in (one, other, one.copy())]
    assert keys[0] == keys[2] != keys[1] and max(keys) < 0
    assert image_key(b"\xff" * 32) == -(2**63) and image_key(b"\0" * 32) == -1


@pytest.mark.parametrize(
    ("ids", "count", "drafts"),
    [
        ([1, 2, 3, 4, 5, 1, 2, 3], 2, [4, 5]),
        ([1, 2, 3, 4, 9, 2, 3], 4, [4, 9, 2, 3]),
        ([5, 6, 5, 6, 5, 6], 5, [5, 6, 5, 6, 5]),  # it runs into what it adds
        ([7, 7, 7, 7], 3, [7, 7, 7]),
        ([1, 2, 3, 8, 1, 2, 3, 9, 1, 2, 3], 1, [9]),  # the latest place counts
        ([4, 2, 3, 8, 1, 2, 3, 9, 2, 3], 1, [9]),
        ([1, 2, 3, 4], 3, []),
        ([1, 2, 1], 3, []),  # one token alone says too little
        ([], 3, []),
        ([1, 2, 3, 1, 2, 3], 0, []),
    ],
)
def test_looked_up(ids: list[int], count: int, drafts: list[int]) -> None:
    assert looked_up(ids, count) == drafts


PICTURES = [np.full((40, 60, 3), shade, np.uint8) for shade in (30, 200)]


@pytest.fixture(scope="module", params=["int4", "fp32"])
def folder(request: pytest.FixtureRequest, tiny_janus: Callable[[str], Path]) -> Path:
    """The small Janus as our kernels run it, and as a graph."""
    return tiny_janus(request.param)


@pytest.fixture
def positions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """From now on, the rows and positions of each call of a decoder; (0, 0) for an image seen."""
    seen: list[tuple[int, int]] = []

    def load(bundle: Bundle, name: str, shared: Shared) -> Engine:
        engine = load_engine(bundle, name, shared)
        bind = engine.bind

        def counted(inputs: Any, outputs: Any, **how: bool) -> Callable[[], None]:
            call = bind(inputs, outputs, **how)
            shape = inputs["embeds"].shape[:2] if name == "decoder" else (0, 0)

            def run() -> None:
                if name in ("decoder", "vision_encoder"):
                    seen.append(shape)
                call()

            return run

        engine.bind = counted  # type: ignore[method-assign]
        return engine

    monkeypatch.setattr("janus_edge.runtime.engines.load_engine", load)
    yield seen


def _answer(session: Session, question: str, images: Any = PICTURES[0], **more: Any) -> str:
    request = AskRequest(question=question, images=images, max_tokens=12, **more)
    return "".join(each.text for each in session.ask(request) if isinstance(each, Text))


def test_a_second_question_about_an_image(folder: Path, positions: list[tuple[int, int]]) -> None:
    questions = ("how many circles are there?", "what colour is the star?", "how many?")
    fresh = []
    for question in questions:
        fresh.append(_answer(Session(open_bundle(folder), num_threads=1), question))
    session, found, first = Session(open_bundle(folder), num_threads=1), [], []
    for question in questions:
        positions.clear()
        found.append(_answer(session, question))
        first.append(positions[:2])
    assert found == fresh
    assert first[0][0] == (0, 0)  # the image is encoded
    tokens = session.bundle.manifest.sizes.num_image_tokens
    assert first[0][1][1] > tokens
    for later in first[1:]:  # neither image nor prompt is computed again
        assert 1 <= later[0][1] < 20
    assert _answer(session, questions[0], PICTURES[1]) == _answer(
        Session(open_bundle(folder), num_threads=1), questions[0], PICTURES[1]
    )


def test_a_conversation_goes_on(folder: Path, positions: list[tuple[int, int]]) -> None:
    session, history = Session(open_bundle(folder), num_threads=1), []
    for number, question in enumerate(("how many circles are there?", "what colour?", "sure?")):
        positions.clear()
        answer = _answer(session, question, history=tuple(history))
        if number:
            assert positions[0][1] < 30
        alone = Session(open_bundle(folder), num_threads=1, context_mb=0)
        assert answer == _answer(alone, question, history=tuple(history))
        history.append(Turn(message=question, answer=answer or "yes", num_images=int(number == 0)))


@pytest.mark.parametrize("runs_graphs", [False, True])
def test_logits_after_a_kept_beginning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, runs_graphs: bool
) -> None:
    """Compare with computing afresh: the same bits with the CPU kernels, 1e-3 in a graph."""
    if runs_graphs:
        monkeypatch.setattr(cpu_kernels, "runs", lambda name, manifest: False)
    seen: list[np.ndarray] = []

    def decode(decoder: Any, head: Any, table: Any, hidden_BD: np.ndarray, *rest: Any) -> Any:
        seen.append(head(hidden_BD).copy())
        return decode_text(decoder, head, table, hidden_BD, *rest)

    monkeypatch.setattr(answer, "decode_text", decode)
    session = Session(open_bundle(folder), num_threads=1)
    assert not (runs_graphs and session.uses_cpu_kernels)
    for question in ("how many circles are there?", "what colour is the star?", "how many?"):
        seen.clear()
        _answer(session, question)
        _answer(Session(open_bundle(folder), num_threads=1), question)
        kept_BV, fresh_BV = seen
        if session.uses_cpu_kernels:
            assert np.array_equal(kept_BV, fresh_BV)
        else:
            assert np.abs(kept_BV - fresh_BV).max() < BOUND


def test_one_prompt_is_computed_once(folder: Path, positions: list[tuple[int, int]]) -> None:
    def codes(session: Session, **settings: Any) -> np.ndarray:
        request = ImageRequest(prompt="a red star", parallel=1, **settings)
        events = session.generate_image(request)
        return np.array([each.codes for each in events if isinstance(each, Image)])

    alone = [codes(Session(open_bundle(folder), num_threads=1), seed=i)[0] for i in range(4)]
    session = Session(open_bundle(folder), num_threads=1)
    positions.clear()
    four = codes(session, num_images=4)
    assert np.array_equal(four, alone)
    assert positions[0][0] == 2 and positions[1] == (8, 1)  # prompt and its unconditional row
    positions.clear()
    assert np.array_equal(codes(session, num_images=4), alone)
    if session.uses_cpu_kernels:  # the prompt is kept, too: its last position gives the logits
        assert positions[0] == (2, 1)


def test_a_prompt_is_copied_as_far_as_it_goes(folder: Path) -> None:
    """The rest of a row is room that nothing has touched: at full size 60 MB per row."""
    bundle = open_bundle(folder)
    decoder = Session(bundle, num_threads=1)._engines.open_decoder(3, 20, prefill=False)
    width = bundle.manifest.sizes.hidden_size
    prompts = np.ones((2, 5, width), np.float32) * np.float32([[[0.1]], [[0.2]]])
    decoder.prefill(prompts, np.array([5, 4]))
    for each in decoder._cache.past.values():
        each[2] = 7
    decoder.repeat(np.array([0, 1, 1]))
    for given, copied in zip(decoder.saved(1, 20), decoder.saved(2, 20), strict=True):
        assert given.shape[1] == 4 and np.array_equal(given, copied)
    assert all((each[2, :, 4:] == 7).all() for each in decoder._cache.past.values())


def test_nothing_is_kept_without_room(folder: Path, positions: list[tuple[int, int]]) -> None:
    session = Session(open_bundle(folder), num_threads=1, context_mb=0)
    counts = []
    for _ in range(2):
        positions.clear()
        _answer(session, "how many?")
        counts.append(positions[:2])
    assert counts[0] == counts[1] and counts[0][0] == (0, 0)
    assert session._engines.kept.num_bytes == 0


def test_an_answer_that_is_not_read_to_its_end(folder: Path) -> None:
    session = Session(open_bundle(folder), num_threads=1)
    events = session.ask(AskRequest(question="how many circles are there?", images=PICTURES[0]))
    next(events)
    events.close()  # type: ignore[attr-defined]
    fresh = Session(open_bundle(folder), num_threads=1)
    assert _answer(session, "what colour is it?") == _answer(fresh, "what colour is it?")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_do_not_depend_on_passes(folder: Path, temperature: float) -> None:
    session = Session(open_bundle(folder), num_threads=1, context_mb=0)
    for seed in range(6):
        settings: dict[str, Any] = {"temperature": temperature, "seed": seed, "max_tokens": 60}
        request = {"question": "one one two one one two one one", **settings}
        answers = []
        for parallel in (1, 2, 3, 8, 64, None):
            events = list(session.ask(AskRequest(**request, parallel=parallel)))
            assert isinstance(events[-1], Finished)
            answers.append("".join(each.text for each in events if isinstance(each, Text)))
        assert len(set(answers)) == 1, answers


def test_room_out_of_range(folder: Path) -> None:
    with pytest.raises(OptionError, match="context_mb is -1"):
        Session(open_bundle(folder), context_mb=-1)


def test_images_drawn_while_an_answer_is_open_are_shown_next(folder: Path) -> None:
    talk = Conversation(Session(open_bundle(folder), num_threads=1))
    list(talk.draw("a red star"))
    answering = talk.ask("how many stars are there?")
    list(talk.draw("two circles"))
    answer = "".join(each.text for each in answering if isinstance(each, Text))
    assert len(talk.shown) == (1 if answer.strip() else 2)
    with pytest.raises(OptionError, match="a conversation has its own"):
        talk.ask("sure?", history=())
    with pytest.raises(OptionError, match="session is 'x'"):
        Conversation("x")  # type: ignore[arg-type]
