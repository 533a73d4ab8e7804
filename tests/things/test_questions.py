from __future__ import annotations

import re
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from janus_edge.things import english, korean
from janus_edge.things.artwork import STYLES, THINGS
from janus_edge.things.captions import LANGUAGES
from janus_edge.things.questions import COVERS, LESSONS, Question, question, tell
from janus_edge.things.scenes import Scene, one_of_pair, relation_of, scenes, side_of


def asked(language: str, topic: str, count: int = 400) -> list[tuple[Scene, Question]]:
    rng = np.random.default_rng(0)
    made = [(s, question(s, rng, language, topic)) for s in islice(scenes("validation"), count)]
    return [(scene, q) for scene, q in made if q is not None]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("topic", LESSONS)
def test_every_topic_is_asked(language: str, topic: str) -> None:
    made = asked(language, topic)
    assert len(made) > 40
    for _, q in made:
        assert q.topic == topic and q.language == language
        assert q.text[-1] in "?." and q.answer and "  " not in q.text + q.answer


def test_answers_are_true_in_english() -> None:
    for scene, q in asked("english", "count"):
        assert q.answer == english.NUMBERS[len(scene.things)]
    for scene, q in asked("english", "background"):
        assert q.answer == scene.background
    for scene, q in asked("english", "style"):
        assert q.answer == scene.style and q.answer in STYLES
    for scene, q in asked("english", "thing"):
        name = q.answer.removeprefix("a ").removeprefix("an ")
        names = {THINGS[n].english[0] for n in scene.names}
        names |= {p for n in scene.names for p in THINGS[n].plurals[:1]}
        assert name in {n.removeprefix("a ") for n in names}


def test_answers_are_true_in_korean() -> None:
    for scene, q in asked("korean", "count"):
        assert q.answer.split()[0] == korean.NUMBERS[len(scene.things)]
    for scene, q in asked("korean", "background"):
        assert q.answer == korean.BACKGROUNDS[scene.background][0]
    for scene, q in asked("korean", "style"):
        assert q.answer == korean.STYLES[scene.style][0]
    for scene, q in asked("korean", "thing"):
        assert q.answer in {THINGS[n].korean[0] for n in scene.names}


def test_one_is_asked_for_where_one_is() -> None:
    made = asked("english", "one")
    assert {(len(scene.things), q.answer) for scene, q in made} == {(1, "one")}
    counts = Counter(len(scene.things) for scene, _ in asked("english", "count"))
    assert counts[1] < len(made) / 3  # the exam seldom asks it


@pytest.mark.parametrize(("language", "yes"), [("english", "yes"), ("korean", "네")])
def test_existence(language: str, yes: str) -> None:
    made = asked(language, "existence", 400)
    assert 0.4 < sum(q.answer == yes for _, q in made) / len(made) < 0.6
    owner = {name.lower(): t.id for t in THINGS.values() for name in getattr(t, language)}
    for scene, q in made:
        edge = r"\b" if language == "english" else ""
        text = q.text.lower()
        mentioned = max((n for n in owner if re.search(f"{edge}{n}{edge}", text)), key=len)
        assert (owner[mentioned] in scene.names) == (q.answer == yes), q


def test_what_covers_another_is_not_asked_for_as_absent() -> None:
    assert set(COVERS) <= set(THINGS)
    assert set().union(*COVERS.values()) <= set(THINGS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_positions(language: str) -> None:
    sides = {r: r if language == "english" else korean.SIDES[r] for r in korean.SIDES}
    for scene, q in asked(language, "position", 1500):
        relation = relation_of(*scene.things)
        assert q.answer in {*sides.values(), "yes", "no", "네", "아니요"}
        if q.answer in sides.values():
            assert q.answer in (sides[relation], sides[english.OPPOSITE[relation]])
            names = [getattr(THINGS[p.thing], language)[0] for p in scene.things]
            starts = [
                q.text.startswith((name, f"where is the {name} ", f"where are the {name} "))
                or q.text.startswith((f"where is the {name},", f"where are the {name},"))
                for name in (n.removeprefix("a ") for n in names)
            ]
            if starts == [True, False]:
                assert q.answer == sides[relation]
            if starts == [False, True]:
                assert q.answer == sides[english.OPPOSITE[relation]]


PLACES = [
    ("english", {"on the left", "at the top"}, {"on the right", "at the bottom"}),
    ("korean", {"왼쪽", "위"}, {"오른쪽", "아래"}),
]
SIDES = [(language, first | second) for language, first, second in PLACES]


@pytest.mark.parametrize(("language", "first", "second"), PLACES)
def test_places(language: str, first: set[str], second: set[str]) -> None:
    given = set()
    for scene, q in asked(language, "place"):
        names = [getattr(THINGS[p.thing], language)[0].removeprefix("a ") for p in scene.things]
        owners = [n for n, name in enumerate(names) if name in q.text]
        assert q.answer in first | second
        if owners == [0]:  # things come in reading order
            assert q.answer in first
        if owners == [1]:
            assert q.answer in second
        given.add(q.answer)
    assert given == first | second


@pytest.mark.parametrize(("language", "sides"), SIDES)
def test_a_thing_alone_keeps_its_place(language: str, sides: set[str]) -> None:
    rng, given = np.random.default_rng(0), Counter[str]()
    for scene in islice(scenes("validation"), 200):
        alone = one_of_pair(scene, rng)
        if scene.kind != "pair":
            assert alone == scene
            continue
        (thing,) = alone.things
        (other,) = set(scene.things) - {thing}
        assert alone.kind == "single" and side_of(thing) == relation_of(thing, other)
        asked = question(alone, rng, language, "place")
        both = [question(scene, rng, language, "place") for _ in range(20)]
        assert asked is not None
        assert asked.answer in {each.answer for each in both if each is not None}
        given[asked.answer] += 1
    assert given.keys() == sides and min(given.values()) > 5


def test_a_thing_in_the_middle_has_no_side() -> None:
    single = (scene for scene in scenes("validation") if scene.kind == "single")
    for scene in islice(single, 20):
        assert question(scene, np.random.default_rng(0), "english", "place") is None


def test_tell_says_everything() -> None:
    for scene in islice(scenes("validation"), 100):
        text = tell(scene, "english")
        assert scene.background in text and scene.style in text
        if scene.kind == "pair":
            assert f" {relation_of(*scene.things)} the " in text
        assert korean.STYLES[scene.style][0] in tell(scene, "korean")
