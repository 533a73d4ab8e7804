"""Exact parallel drawing: passes of several positions draw what passes of one draw."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from janus_edge.runtime import decode, passes, sampling
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.decode import Drafts, Settings, code_chooser, decode_codes
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.events import Event, Finished, Image
from janus_edge.runtime.passes import (
    MOST_TESTED,
    MOST_WIDTH,
    PRIOR,
    ROUNDS,
    TRIAL,
    WIDTHS,
    Known,
    Passes,
    known_passes,
)
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session

NUM_WORDS, NUM_CODES = 3, 4
BOUND = 1e-3  # docs/decoding.md


class Table:
    """A model without a network: a table has the logits of what follows each sequence of codes.

    It does what a decoder with its caches does: positions that were not kept are written anew. A
    sequence's number is that of the one before it times 4, plus its last code, plus 1.
    """

    room = 10**6

    def __init__(self, images: int) -> None:
        rng = np.random.default_rng(1)
        self.logits = rng.standard_normal((4**NUM_CODES, NUM_WORDS)).astype(np.float32) * 1.5
        self.kept_B = np.zeros(images, np.int64)

    def prefill(self) -> np.ndarray:
        self.kept_B[:] = 0
        return self.logits[self.kept_B]

    def look_ahead(self, codes_BT1: np.ndarray) -> np.ndarray:
        sequences = [self.kept_B]
        for codes_B in codes_BT1[..., 0].astype(np.int64).T:
            sequences.append((sequences[-1] * 4 + codes_B + 1) % len(self.logits))
        self.sequences_BT = np.stack(sequences, axis=1)
        return self.logits[self.sequences_BT[:, 1:]]

    def keep(self, counts_B: np.ndarray) -> None:
        self.kept_B = np.take_along_axis(self.sequences_BT, counts_B[:, None], 1)[:, 0]

    def chance(self, codes: tuple[int, ...]) -> float:
        """Return the probability of a sequence."""
        chance, sequence = 1.0, 0
        for code in codes:
            odds = np.exp(self.logits[sequence].astype(np.float64))
            chance *= float(odds[code] / odds.sum())
            sequence = sequence * 4 + code + 1
        return chance


def drawn(table: Table, seeds: np.ndarray, width: int) -> np.ndarray:
    """Draw one image for each seed; codes (B, N)."""
    settings = Settings(temperature=1.0)
    steps = decode_codes(
        table,  # type: ignore[arg-type]
        code_chooser(lambda hidden: hidden, NUM_WORDS, NUM_CODES, seeds, settings),
        np.arange(NUM_WORDS, dtype=np.float32)[:, None],
        table.prefill(),
        len(seeds),
        NUM_CODES,
        0,
        {1: Passes((width,))},
    )
    return np.stack(list(steps), axis=1)


def _chi_square(width: int, draws: int) -> float:
    """Return how far the sequences of many seeds are from their probabilities, per freedom."""
    table = Table(draws)
    counts = dict.fromkeys(itertools.product(range(NUM_WORDS), repeat=NUM_CODES), 0)
    for codes in drawn(table, np.arange(draws, dtype=np.uint64), width).tolist():
        counts[tuple(codes)] += 1
    expected = {codes: draws * table.chance(codes) for codes in counts}
    assert math.isclose(sum(expected.values()), draws)
    return sum((counts[c] - e) ** 2 / e for c, e in expected.items()) / (len(counts) - 1)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_the_law_is_that_of_the_model(width: int) -> None:
    # 80 degrees of freedom: the statistic divided by them is 1 +- 0.16, above 1.56 once in 1000
    assert _chi_square(width, 50_000) < 1.56


def _accepts_one_too_many(drafts: Drafts, chosen_BT: np.ndarray) -> np.ndarray:
    before = drafts.drawn_B.copy()
    accepted = _take(drafts, chosen_BT)
    more = np.minimum(accepted + 1, chosen_BT.shape[1])
    more = np.minimum(more, drafts.num_codes - before)
    drafts.drawn_B[:] = before + more
    return more


_take = Drafts.take


def test_a_planted_error_breaks_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept a code that was chosen behind a wrong draft."""
    monkeypatch.setattr(Drafts, "take", _accepts_one_too_many)
    assert _chi_square(4, 50_000) > 3


@pytest.mark.parametrize("width", [2, 3, 4, 7])
def test_codes_are_those_of_passes_of_one(width: int) -> None:
    seeds = np.arange(500, dtype=np.uint64)
    one, several = Table(500), Table(500)
    assert np.array_equal(drawn(one, seeds, 1), drawn(several, seeds, width))
    alone = [drawn(Table(1), seeds[[i]], width)[0] for i in range(40)]
    assert np.array_equal(alone, drawn(one, seeds, 1)[:40])  # images do not depend on each other


def test_drafts() -> None:
    drafts = Drafts.start(2, 5, 4)
    assert drafts.take(np.array([[7], [8]])).tolist() == [1, 1]
    assert drafts.given(3).tolist() == [[7, 7, 7], [8, 8, 8]]  # the last code again
    # the drafts 7, 7 were right once, the drafts 8, 8 never
    assert drafts.take(np.array([[7, 3, 4], [9, 8, 8]])).tolist() == [2, 1]
    assert drafts.given(4).tolist() == [[3, 4, 4, 4], [9, 8, 8, 8]]
    # no more codes than the image has
    assert drafts.take(np.array([[4, 4, 4, 4], [8, 8, 8, 8]])).tolist() == [2, 3]
    assert drafts.take(np.array([[1], [1]])).tolist() == [0, 0]
    assert drafts.codes_BN[:, :5].tolist() == [[7, 7, 3, 4, 4], [8, 9, 8, 8, 8]]


class Clock:
    """Passes whose costs are known."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ms: Callable[[int], float]) -> None:
        self.now, self.ms = 0.0, ms
        monkeypatch.setattr(passes.time, "perf_counter", lambda: self.now)

    def run(self, chosen: Passes, right: float, count: int) -> list[int]:
        """Run passes, each draft right with a chance; the widths."""
        rng, widths = np.random.default_rng(0), []
        for _ in range(count):
            width = chosen.begin(10**6)
            self.now += self.ms(width) / 1e3
            wrong = np.flatnonzero(rng.random(width - 1) > right)
            chosen.end(np.array([1 + (int(wrong[0]) if len(wrong) else width - 1)]))
            widths.append(width)
        return widths


def test_costs_are_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock, note = Clock(monkeypatch, lambda width: 10.0 + width), tmp_path / "a" / "note.json"
    first = Passes(WIDTHS, note, known_passes(note))
    widths = clock.run(first, 0.5, 5)
    assert widths == [1, 1, 2, 2, 3]  # the first pass of a width does not count
    first.keep()
    assert json.loads(note.read_text(encoding="utf-8"))["1"] == [11.0]
    second = Passes(WIDTHS, note, known_passes(note))
    assert all(width in WIDTHS for width in clock.run(second, 0.5, 8 * (ROUNDS + 1)))
    second.keep()
    known = json.loads(note.read_text(encoding="utf-8"))
    assert len(known.pop("drafts")) == WIDTHS[-1] - 1
    assert known == {str(width): [10.0 + width] * ROUNDS for width in WIDTHS}
    written = note.stat().st_mtime_ns
    third = Passes(WIDTHS, note, known_passes(note))
    third.keep()
    assert note.stat().st_mtime_ns == written


def test_a_later_request_begins_with_what_is_right(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also after a change; what is not news is not written."""
    clock, note = Clock(monkeypatch, lambda width: 40.0 + width), tmp_path / "note.json"

    def widths_of_a_request(right: float) -> list[int]:
        chosen = Passes(WIDTHS, note, known_passes(note))
        widths = clock.run(chosen, right, 300)
        chosen.keep()
        return widths

    widths_of_a_request(0.9)
    assert min(widths_of_a_request(0.9)[:10]) >= 8
    assert all(tested <= MOST_TESTED for _, tested in known_passes(note).drafts)
    written = note.stat().st_mtime_ns
    widths_of_a_request(0.9)
    assert note.stat().st_mtime_ns == written
    assert widths_of_a_request(0.0)[-10:].count(1) >= 9
    assert note.stat().st_mtime_ns != written
    assert widths_of_a_request(0.0)[:10].count(1) == 9  # and a trial


def test_small_images_find_right_drafts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of 63 codes is over in few passes, yet each has a trial."""
    clock, known = Clock(monkeypatch, lambda width: 10.0 + 2.0 * width), Known.nothing(WIDTHS)
    codes, passes_of = 63, []
    clock.run(Passes(WIDTHS, None, known), 0.0, 40)  # costs are known
    for right in (*[0.0] * 20, *[0.9] * 20):
        chosen, drawn = Passes(WIDTHS, None, known), 0
        rng = np.random.default_rng(len(passes_of))
        while drawn < codes:
            width = chosen.begin(codes - drawn)
            clock.now += (10.0 + 2.0 * width) / 1e3
            wrong = np.flatnonzero(rng.random(width - 1) > right)
            added = 1 + (int(wrong[0]) if len(wrong) else width - 1)
            chosen.end(np.array([added]))
            drawn += added
        chosen.keep()
        passes_of.append(len(chosen.done))
    assert min(passes_of[5:20]) >= 60
    assert max(passes_of[-10:]) <= 25, passes_of


def test_a_session_without_a_folder_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, known = Clock(monkeypatch, lambda width: 40.0 + width), Known.nothing(WIDTHS)
    for _ in range(2):
        chosen = Passes(WIDTHS, None, known)
        widths = clock.run(chosen, 0.9, 300)
        chosen.keep()
    assert min(widths[:10]) >= 8


_NO_DRAFTS = (
    "[[1.0, 8.0]]",
    str([[8.0, 7.0]] * 15),
    str([[1, 8]] * 15),
    str([[0.0, 1e-5]] * 15),
    str([[1.0, 9.0]] * 15),
    str([*[[1.0, 8.0]] * 14, [1.0, 8.0, 1.0]]),
    "[null]",
    "3",
)


@pytest.mark.parametrize("drafts", _NO_DRAFTS)
def test_damaged_drafts_are_tested_anew(tmp_path: Path, drafts: str) -> None:
    note = tmp_path / "note.json"
    note.write_text(f'{{"1": [3.5], "drafts": {drafts}}}', encoding="utf-8")
    known = known_passes(note)
    assert known.samples[1] == [3.5] and known.drafts == Known.nothing(WIDTHS).drafts


_NO_SAMPLES = ("3", "[1.0, 2.0, 3.0, 4.0]", "[-1.0]", "[NaN]", '["x"]', "[true]", "null")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", *(f'{{"1": {each}}}' for each in _NO_SAMPLES)],
)
def test_a_damaged_note_is_measured_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    note = tmp_path / "note.json"
    note.write_text(text, encoding="utf-8")
    chosen = Passes(WIDTHS, note, known_passes(note))
    assert Clock(monkeypatch, float).run(chosen, 0.5, 4) == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("ms", "right", "width"),
    [
        (lambda width: 10.0, 0.9, 16),  # further positions cost nothing
        (lambda width: 10.0 + width, 0.0, 1),
        (lambda width: 10.0 * width, 0.9, 1),
        (lambda width: 10.0 if width <= 3 else 20.0, 0.6, 3),
    ],
)
def test_the_fastest_width_is_chosen(
    monkeypatch: pytest.MonkeyPatch, ms: Callable[[int], float], right: float, width: int
) -> None:
    clock, chosen = Clock(monkeypatch, ms), Passes(WIDTHS)
    clock.run(chosen, right, 100)
    widths = clock.run(chosen, right, 100)
    assert widths.count(width) >= 90, widths
    if width == 1:  # from time to time, whether drafts are right now
        assert widths.count(2) in range(100 // TRIAL, 100 // TRIAL + 2)


def test_passes_beside_other_work_are_no_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until costs are known they have one position; then the fastest width, as otherwise."""
    known, slow = Known.nothing(WIDTHS), Passes(WIDTHS)
    slow.is_alone = False
    assert Clock(monkeypatch, lambda width: 50.0).run(slow, 0.9, 20) == [1] * 20
    chosen = Passes(WIDTHS, None, known)
    clock = Clock(monkeypatch, lambda width: 10.0)
    clock.run(chosen, 0.9, 100)
    assert clock.run(slow, 0.9, 2) == [1, 1]
    costs = {width: list(each) for width, each in known.samples.items()}
    chosen.is_alone = False
    widths = Clock(monkeypatch, lambda width: 50.0).run(chosen, 0.9, 60)
    assert widths.count(16) >= 55 and known.samples == costs


def test_widths_that_do_not_fit_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short answers learn, too: what has no room is neither measured nor taken."""
    clock, known = Clock(monkeypatch, lambda width: 10.0 * width), Known.nothing(WIDTHS)
    for _ in range(20):
        chosen = Passes(WIDTHS, None, known)
        for _ in range(4):
            width = chosen.begin(10)
            assert width in WIDTHS[:6]
            clock.now += 10.0 * width / 1e3
            chosen.end(np.array([1]))
    assert [len(known.samples[width]) for width in WIDTHS] == [ROUNDS] * 6 + [0, 0]
    assert chosen.begin(10) == 1


def test_no_more_positions_than_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, float)
    chosen = Passes((8,))
    assert chosen.begin(5) == 5
    clock.now += 0.005
    chosen.end(np.array([2, 0]))
    (done,) = chosen.done
    assert (done.width, done.codes, round(done.took_ms)) == (5, 2, 5)
    assert chosen.widest == 8 and 0 < PRIOR[0] < PRIOR[1]


def _images(session: Session, **settings: Any) -> list[Image]:
    request = ImageRequest(prompt="two stars", **settings)
    return [each for each in session.generate_image(request) if isinstance(each, Image)]


def _codes(session: Session, **settings: Any) -> np.ndarray:
    return np.array([each.codes for each in _images(session, **settings)])


@pytest.fixture(scope="session", params=["int4", "fp32", "portable"])
def small(request: pytest.FixtureRequest, tiny_janus: Callable[[str], Path]) -> Session:
    """The small Janus as our kernels run it, and as two graphs."""
    return Session(open_bundle(tiny_janus(request.param)), num_threads=1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_images": 3},
        {"temperature": 0.0},
        {"guidance_scale": 1.0, "num_images": 2},
        {"top_k": 20, "top_p": 0.9, "temperature": 1.2},
    ],
)
def test_settings(small: Session, settings: dict[str, Any]) -> None:
    """On ONNX Runtime too: a code could differ only if the two best were closer than its sums."""
    one = _codes(small, parallel=1, seed=3, **settings)
    for width in (2, 3, 8):
        assert np.array_equal(_codes(small, parallel=width, seed=3, **settings), one), width


def test_a_prompt_that_fills_the_context(small: Session) -> None:
    """Passes never reach beyond the last position that the model knows."""
    sizes, words = small.bundle.manifest.sizes, "a"
    while True:
        longer = f"{words} red star"
        ids = small.bundle.encoder.generation(longer)
        if len(ids) > sizes.max_length - sizes.num_drawn:
            break
        words = longer
    request = {"prompt": (words, "a star"), "seed": 5}
    found = [
        [
            e.codes
            for e in small.generate_image(ImageRequest(**request, parallel=width))
            if isinstance(e, Image)
        ]
        for width in (1, 5, MOST_WIDTH)
    ]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_passes_are_told(small: Session) -> None:
    def told(**settings: Any) -> tuple[Finished, list[Event]]:
        events = list(small.generate_image(ImageRequest(prompt="a star", seed=1, **settings)))
        assert isinstance(events[-1], Finished)
        return events[-1], events

    one, events = told(parallel=1, previews=True)
    several, others = told(parallel=4, previews=True)
    assert [type(each) for each in events] == [type(each) for each in others]
    assert [each.width for each in one.passes] == [1] * 63 == [each.codes for each in one.passes]
    assert sum(each.codes for each in several.passes) == 63 > len(several.passes)
    assert max(each.width for each in several.passes) == 4
    by_itself, _ = told()
    is_exact = small.uses_cpu_kernels
    assert any(each.width > 1 for each in by_itself.passes) == is_exact  # else the clock may not


def _margins(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """From now on, by how much the best code of each choice is better than the second best."""
    found: list[np.ndarray] = []

    def choose(logits: np.ndarray, noise: np.ndarray | None, temperature: float, *rest: Any) -> Any:
        assert noise is not None
        best = np.sort(logits / np.float32(temperature) + noise, axis=1)[:, -2:]
        found.append(best[:, 1] - best[:, 0])
        return original(logits, noise, temperature, *rest)

    original = sampling.choose
    monkeypatch.setattr(sampling, "choose", choose)
    return found


FEW = (range(0, 50, 10), (3, 16, None))
ALL = pytest.param((range(50), (1, 2, 3, 4, 8, 16, None)), marks=pytest.mark.slow)


@pytest.mark.parametrize("num_images", [1, 4])
@pytest.mark.parametrize("cases", [FEW, ALL])
def test_many_seeds(
    small: Session, monkeypatch: pytest.MonkeyPatch, cases: tuple[range, Any], num_images: int
) -> None:
    """Equal; on ONNX Runtime except where the two best codes are closer than its sums."""
    margins = _margins(monkeypatch)
    for seed in cases[0]:
        settings = {"seed": num_images * seed, "num_images": num_images}
        margins.clear()
        one = _codes(small, parallel=1, **settings)
        best_NB = np.array(margins)
        for width in cases[1]:
            found = _codes(small, parallel=width, **settings)
            for image in np.flatnonzero((found != one).any(axis=1)):
                first = int((found != one)[image].argmax())
                assert not small.uses_cpu_kernels
                assert best_NB[first, image] < BOUND, (seed, width, image, first)


@pytest.mark.parametrize("parallel", [0, -1, MOST_WIDTH + 1])
def test_out_of_range(parallel: int) -> None:
    with pytest.raises(OptionError, match=f"parallel is {parallel}; give a value from 1 to 64"):
        ImageRequest(prompt="x", parallel=parallel)


def test_a_flow_has_no_codes() -> None:
    session = Session(open_bundle("tiny-flow"), num_threads=1)
    with pytest.raises(OptionError, match="parallel means nothing to tiny-flow"):
        session.generate_image(ImageRequest(prompt="x", parallel=2))


def test_noise_of_any_positions() -> None:
    """Whatever positions are asked for, in any order, noise is that of the definition."""
    seeds, size = np.array([3, 2**40], np.uint64), 40_000  # blocks of three positions
    noise_of = decode._noise(seeds, 20, size, "image", Settings(temperature=1.0))
    for positions in ([[0, 1, 2, 3], [7, 8, 9, 10]], [[4, 5, 6, 7], [16, 17, 18, 19]], [[0], [19]]):
        found = noise_of(np.array(positions))
        assert found is not None
        for seed, at, row in zip(seeds, positions, found, strict=True):
            assert np.array_equal(row, sampling.gumbel(np.array([seed]), np.array(at), size, 0)[0])
    assert (
        decode._noise(seeds, 20, size, "image", Settings(temperature=0.0))(np.array([[0]])) is None
    )
