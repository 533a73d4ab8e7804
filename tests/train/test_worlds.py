"""Check that the worlds' conversations teach every topic that an exam asks for."""

from __future__ import annotations

import io
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from janus_edge.runtime.errors import OutputError
from janus_edge.shapes import scenes as shapes
from janus_edge.things import questions_english, questions_korean
from janus_edge.things import scenes as things
from janus_edge.things.artwork import THINGS
from janus_edge.train.worlds import SHARES, WORLDS, _content, _members, write_world

DESCRIBE = {*questions_english.DESCRIBE, *questions_korean.DESCRIBE}  # in shapes, too


@pytest.mark.parametrize("name", WORLDS)
def test_conversations_end_with_a_description_if_they_have_one(name: str) -> None:
    world, lengths = WORLDS[name], []
    for number, scene in enumerate(islice(world.scenes(0), 300)):
        rng = np.random.default_rng(number)
        content = _content(world, "understanding", scene, world.languages[0], rng)
        asked = [turn.user in DESCRIBE for turn in content.turns]
        assert 1 <= len(asked) <= 4 and not any(asked[:-1])
        lengths += [len(asked)] if asked[-1] else []
    assert 60 < len(lengths) < 150 and set(lengths) == {1, 2, 3, 4}


@pytest.mark.parametrize("name", WORLDS)
def test_half_of_the_conversations_have_one_question(name: str) -> None:
    """Asked together, questions about a pair give away each other's answers."""
    world, lengths = WORLDS[name], Counter[int]()
    for number, scene in enumerate(islice(world.scenes(0), 300)):
        rng = np.random.default_rng(number)
        lengths[len(_content(world, "understanding", scene, world.languages[0], rng).turns)] += 1
    assert 130 < lengths[1] < 190 and min(lengths[i] for i in (2, 3, 4)) > 20, lengths


def test_conversations_about_pairs_ask_for_things_and_sides_more_often_than_for_colours() -> None:
    world, found = WORLDS["things"], Counter[str]()
    pairs = (scene for scene in world.scenes(0) if scene.kind == "pair")
    for number, scene in enumerate(islice(pairs, 300)):
        content = _content(world, "understanding", scene, "english", np.random.default_rng(number))
        for turn in content.turns:
            about_looks = any(word in turn.user for word in ("colo", "style", "drawn"))
            words = " ".join(turn.user.split()[:2]).replace("where are", "where is")
            found["looks" if about_looks else words] += 1
    assert found["where is"] > found["looks"] and found["what is"] > 100, found


def test_of_some_pairs_a_conversation_shows_one_thing_alone() -> None:
    world, found = WORLDS["things"], Counter[str]()
    for number, scene in enumerate(islice(world.scenes(0), 300)):
        rng = np.random.default_rng((list(SHARES).index("understanding"), number))
        shown = world.lesson(scene, rng)
        alone = len(shown.things) < len(scene.things)
        assert not shown.held_out and set(shown.things) <= set(scene.things)
        assert shown.background == scene.background
        assert scene.kind == "pair" if alone else shown.things == scene.things
        found["alone" if alone else scene.kind] += 1
        for role, what in (("understanding", shown), ("generation", scene)):
            file = io.BytesIO(_members(world, role, scene, number)["png"])
            assert np.array_equal(np.asarray(Image.open(file)), world.render(what))
    assert 0.15 < found["alone"] / (found["alone"] + found["pair"]) < 0.35, found


def test_conversations_count_single_things() -> None:
    world, counted, singles = WORLDS["things"], 0, 0
    for number, scene in enumerate(islice(world.scenes(0), 600)):
        content = _content(world, "understanding", scene, "english", np.random.default_rng(number))
        singles += scene.kind == "single"
        counted += scene.kind == "single" and any(t.assistant == "one" for t in content.turns)
    assert counted > singles / 10 > 10, (counted, singles)


def test_conversations_show_pairs_in_every_style() -> None:
    """The exam's pairs are cartoons in eight of ten; the vision encoder must know all styles."""
    world, found = WORLDS["things"], Counter[str]()
    pairs = (scene for scene in world.scenes(0) if scene.kind == "pair")
    for number, scene in enumerate(islice(pairs, 300)):
        found[world.lesson(scene, np.random.default_rng(number)).style] += 1
    assert found.keys() == set(things.STYLES) and min(found.values()) > 40, found


def test_a_thing_alone_is_never_held_out() -> None:
    """On a background it may be, though the pair is not."""
    coloured = (
        scene
        for scene in WORLDS["things"].scenes(0)
        if scene.kind == "pair" and scene.background != "white"
    )
    could_be = 0
    for scene in islice(coloured, 40):
        for seed in range(12):
            could_be += things.one_of_pair(scene, np.random.default_rng(seed)).held_out
            assert not WORLDS["things"].lesson(scene, np.random.default_rng(seed)).held_out
    assert could_be > 5


@pytest.mark.parametrize("name", WORLDS)
def test_boxes_lie_around_what_is_shown(name: str) -> None:
    world = WORLDS[name]
    for number, scene in enumerate(islice(world.scenes(0), 60)):
        image = world.render(scene).astype(int)
        size, rng = len(image), np.random.default_rng(number)
        for role in ("generation", "understanding"):
            boxes = _content(world, role, scene, world.languages[0], rng).boxes
            small = {each.box for each in boxes if each.box != (0, 0, size, size)}
            colour = BACKGROUNDS[name][scene.background]
            assert {each.label for each in boxes if each.box in small} >= {
                value for thing in scene.things for value in LABELS[name](thing)
            }
            rest = image.copy()
            for x, y, width, height in (tuple(map(int, box)) for box in small):
                inside = rest[y : y + height, x : x + width]
                assert inside.shape == (height, width, 3) and inside.std((0, 1)).max() > 1
                inside[:] = colour
            assert (rest == colour).all()  # nothing but background
        assert _content(world, "text", scene, world.languages[0], rng).boxes == ()


BACKGROUNDS = {"shapes": shapes.BACKGROUNDS, "things": things.BACKGROUNDS}
LABELS = {
    "shapes": lambda thing: (thing.shape, thing.colour),
    "things": lambda thing: (f"{THINGS[thing.thing].english[0]} {THINGS[thing.thing].korean[0]}",),
}


def test_all_places_are_checked_before_anything_is_drawn(tmp_path: Path) -> None:
    last = list(SHARES)[-1]
    (tmp_path / last).mkdir()
    (tmp_path / last / "mine.txt").write_text("x", encoding="utf-8")
    with pytest.raises(OutputError, match=f"{last}: already there"):
        write_world("shapes", tmp_path, 60)
    assert [path.name for path in tmp_path.iterdir()] == [last]
    (tmp_path / last / "mine.txt").unlink()
    assert set(write_world("shapes", tmp_path, 60)) == set(SHARES)
