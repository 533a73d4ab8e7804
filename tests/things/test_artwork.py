from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from janus_edge.things.artwork import CATEGORIES, FOLDER, SPRITE, STYLES, THINGS, sprite
from janus_edge.things.korean import NUMBERS

MEGABYTE = 1 << 20


def test_the_world_is_as_large_as_promised() -> None:
    assert len(THINGS) >= 400 and len(CATEGORIES) >= 10 and len(STYLES) == 3
    assert {"cat", "dog", "apple", "pizza", "heart", "car", "hammer", "sun"} <= set(THINGS)


@pytest.mark.parametrize("language", ["english", "korean"])
def test_a_name_means_one_thing(language: str) -> None:
    names = [name.lower() for thing in THINGS.values() for name in getattr(thing, language)]
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_names_are_words_of_their_language() -> None:
    for thing in THINGS.values():
        assert all(re.fullmatch(r"[A-Za-z][A-Za-z' -]*", name) for name in thing.english), thing
        assert all(re.fullmatch("[가-힣]+( [가-힣]+)*", name) for name in thing.korean), thing
        assert re.fullmatch("[가-힣]+", thing.counter) and thing.counter not in NUMBERS
        assert re.fullmatch("[a-z]+(-[a-z]+)*", thing.id), thing


def test_plurals() -> None:
    plurals = {
        name: plural
        for thing in THINGS.values()
        for name, plural in zip(thing.english, thing.plurals, strict=bool(thing.plurals))
    }
    for name, plural in {
        "knife": "knives",
        "sheep": "sheep",
        "strawberry": "strawberries",
        "mouse": "mice",
        "fox": "foxes",
        "tomato": "tomatoes",
        "key": "keys",
        "wolf": "wolves",
        "tooth": "teeth",
        "piece of cake": "pieces of cake",
        "snowman": "snowmen",
        "dice": "dice",
    }.items():
        assert plurals[name] == plural
    assert THINGS["cherries"].number == "plural" and THINGS["bread"].number == "none"
    assert all(bool(t.plurals) == (t.number == "singular") for t in THINGS.values())


@pytest.mark.parametrize("style", STYLES)
def test_every_thing_is_drawn_differently(style: str) -> None:
    drawn = np.stack([sprite(thing, style, 24).astype(float) for thing in THINGS])
    flat = drawn.reshape(len(drawn), -1)
    squared = (flat**2).sum(axis=1)
    apart = np.sqrt(np.maximum(squared[:, None] + squared - 2 * flat @ flat.T, 0) / flat.shape[1])
    np.fill_diagonal(apart, np.inf)
    assert apart.min() > 5  # of 255, root mean square
    assert (drawn[..., 3] > 128).mean(axis=(1, 2)).min() > 0.04  # something is there


def test_a_drawing_fills_its_square_and_stays_inside() -> None:
    for thing in THINGS:
        for style in STYLES:
            alpha = sprite(thing, style)[..., 3]
            assert alpha.shape == (SPRITE, SPRITE)
            rows, columns = (np.flatnonzero((alpha > 20).any(axis=axis)) for axis in (1, 0))
            assert max(np.ptp(rows), np.ptp(columns)) + 1 in range(SPRITE - 3, SPRITE + 1)


def test_colours_are_multiplied_by_opacity() -> None:
    pixels = sprite("cat", "flat", 40)
    assert (pixels[..., :3] <= pixels[..., 3:]).all()
    assert not pixels.flags.writeable


def test_notices_are_there_and_files_are_small() -> None:
    notice = (FOLDER / "NOTICE").read_text(encoding="utf-8")
    for words in ("Noto Emoji", "Apache License 2.0", "Microsoft Corporation", "MIT License"):
        assert words in notice
    assert "THE SOFTWARE IS PROVIDED" in notice and "Emojibase" in notice
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 3.1 * MEGABYTE
