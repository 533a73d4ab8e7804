from __future__ import annotations

import re
from itertools import islice

import numpy as np
import pytest

from janus_edge.things import english, korean
from janus_edge.things.artwork import THINGS
from janus_edge.things.captions import CATEGORIES, LANGUAGES, Caption, caption, describe, wish_of
from janus_edge.things.english import article, noun
from janus_edge.things.korean import counted, particle
from janus_edge.things.scenes import Scene, relation_of, scenes
from janus_edge.things.wanted import Wanted


def some(count: int, language: str, split: str = "validation") -> list[tuple[Scene, Caption]]:
    rng = np.random.default_rng(0)
    return [(s, caption(s, rng, language)) for s in islice(scenes(split), count)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_category_is_there_and_true_of_its_scene(language: str) -> None:
    made = some(600, language)
    assert {c.category for _, c in made} == {*CATEGORIES, "several"}
    for scene, c in made:
        assert sum(item.count for item in c.wanted) == len(scene.things)
        assert {item.thing for item in c.wanted} == set(scene.names)
        assert c.background in (None, scene.background) and c.style in (None, scene.style)
        assert c.language == language
        if c.category == "position":
            places = {placed.thing: placed for placed in scene.things}
            assert c.relation == relation_of(*(places[item.thing] for item in c.wanted))
        else:
            assert c.relation is None
        if c.category in ("background", "style"):
            assert getattr(c, c.category) is not None
        if c.category == "single_thing":
            assert c.background is None and c.style is None


def read_english(text: str, c: Caption) -> None:
    """Each thing stands there by one of its names, with its count; so do background and style."""
    low = text.lower()
    for item in c.wanted:
        thing = THINGS[item.thing]
        names = thing.english if item.count == 1 else thing.plurals
        found = [name for name in names if name.lower().removeprefix("a ") in low]
        assert found, (text, names)
        if item.count > 1:
            words = (english.NUMBERS[item.count], str(item.count))
            assert any(re.search(rf"\b{word}\b", low) for word in words)
    if c.relation:
        assert any(wording in low for wording in english.WORDINGS[c.relation])
    if c.background:
        assert f"{c.background} background" in low
    if c.style:
        assert any(word in low for word in english.STYLE_WORDS[c.style])


def read_korean(text: str, c: Caption) -> None:
    """The same in Korean."""
    for item in c.wanted:
        thing = THINGS[item.thing]
        assert any(name in text for name in thing.korean), text
        if item.count > 1:
            number = f"({korean.NUMBERS[item.count]} |{item.count})"
            assert re.search(number + thing.counter, text), text
    if c.relation:
        assert korean.SIDES[c.relation] in text
    if c.background:
        assert any(f"{word} 배경" in text for word in korean.BACKGROUNDS[c.background])
    if c.style:
        assert any(word in text for word in korean.STYLES[c.style])


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_caption_says_what_is_wanted(language: str) -> None:
    for _, c in some(1500, language, "test"):
        (read_english if language == "english" else read_korean)(c.text, c)
        assert c.text == c.text.strip() and "  " not in c.text and "{" not in c.text


def test_what_is_taught_says_what_is_not_usual() -> None:
    """Without it, the same words would stand for several backgrounds and styles."""
    unnamed: dict[str, set[str]] = {}
    for scene, c in some(3000, "english", "train"):
        assert c.background is not None or scene.background == "white"
        if c.style is None and scene.kind == "single":
            unnamed.setdefault(scene.names[0], set()).add(scene.style)
    assert len(unnamed) > 100 and {len(styles) for styles in unnamed.values()} == {1}


def test_people_type_the_bare_name_and_a_sentence() -> None:
    texts = {c.text for _, c in some(8000, "english", "train") if c.category == "single_thing"}
    bare = {text for text in texts if text in {n for t in THINGS.values() for n in t.english}}
    assert len(bare) > 40
    for start in ("draw ", "a picture of ", "a ", "an "):
        assert any(text.startswith(start) for text in texts)
    texts = {c.text for _, c in some(8000, "korean", "train") if c.category == "single_thing"}
    assert len(texts & {n for t in THINGS.values() for n in t.korean}) > 40
    for end in ("그려줘", "그림", "그려 주세요"):
        assert any(text.endswith(end) for text in texts)


@pytest.mark.parametrize(
    ("word", "pair", "right"),
    [
        ("고양이", "을/를", "고양이를"),
        ("곰", "을/를", "곰을"),
        ("사과", "과/와", "사과와"),
        ("수박", "과/와", "수박과"),
        ("새", "은/는", "새는"),
        ("별", "이/가", "별이"),
        ("칼", "이랑/랑", "칼이랑"),
        ("티비", "이/가", "티비가"),
        ("3d", "은/는", "3d는"),
    ],
)
def test_korean_particles(word: str, pair: str, right: str) -> None:
    assert particle(word, pair) == right


def test_no_caption_has_a_wrong_particle() -> None:
    """Where a name is followed by one of a pair, it is the one that fits."""
    pairs = ("을/를", "과/와", "이랑/랑")
    for _, c in some(1500, "korean"):
        for item in c.wanted:
            for name in THINGS[item.thing].korean:
                for pair in pairs:
                    for wrong in set(pair.split("/")) - {particle(name, pair)[len(name) :]}:
                        assert not re.search(f"{name}{wrong} ", c.text), c.text


@pytest.mark.parametrize(
    ("thing", "count", "text"),
    [("cat", 2, "고양이 두 마리"), ("apple", 3, "사과 세 개"), ("car", 4, "자동차 네 대")],
)
def test_korean_counters(thing: str, count: int, text: str) -> None:
    assert counted(Wanted(thing=thing, count=count)) == text


@pytest.mark.parametrize(
    ("words", "right"),
    [
        ("cat", "a cat"),
        ("apple", "an apple"),
        ("hourglass", "an hourglass"),
        ("unicorn", "a unicorn"),
        ("UFO", "a UFO"),
        ("umbrella", "an umbrella"),
        ("onion", "an onion"),
        ("X mark", "an X mark"),
    ],
)
def test_english_articles(words: str, right: str) -> None:
    assert article(words) == right


def test_english_nouns() -> None:
    assert noun(Wanted(thing="scissors")) == "scissors"
    assert noun(Wanted(thing="milk"), name=1) == "a glass of milk"
    assert noun(Wanted(thing="milk"), name=1, before="cute") == "a cute glass of milk"
    assert noun(Wanted(thing="milk"), name=1, bare=True) == "glass of milk"
    assert noun(Wanted(thing="pizza", count=2)) == "two pizzas"
    assert noun(Wanted(thing="knife", count=3), digits=True) == "3 knives"


def test_descriptions() -> None:
    for scene in islice(scenes("validation"), 200):
        for language in LANGUAGES:
            text = describe(scene, language)
            c = Caption(
                text=text,
                language=language,
                category="",
                wanted=wish_of(scene).wanted,
                background=scene.background,
            )
            (read_english if language == "english" else read_korean)(text, c)


def test_a_scene_has_no_caption_of_a_category_that_is_not_its() -> None:
    rng = np.random.default_rng(0)
    single = next(s for s in scenes("train") if s.kind == "single")
    with pytest.raises(ValueError, match="counting"):
        caption(single, rng, "english", "counting")
