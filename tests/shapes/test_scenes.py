from __future__ import annotations

import dataclasses
from itertools import islice, pairwise

import numpy as np
import pytest

from janus_edge.shapes.captions import CATEGORIES, OPPOSITE, caption, describe, relation_of
from janus_edge.shapes.questions import LESSONS, question, tell
from janus_edge.shapes.scenes import (
    BACKGROUNDS,
    COLOURS,
    GRID,
    SHAPES,
    SIZES,
    SPLITS,
    make_scene,
    render,
    scenes,
)


def test_the_world_is_as_large_as_promised() -> None:
    assert len(SHAPES) >= 5 and len(COLOURS) >= 8 and len(SIZES) >= 2 and len(BACKGROUNDS) >= 3
    many = list(islice(scenes("train"), 600))
    assert {len(scene.things) for scene in many} == {1, 2, 3, 4, 5}
    assert {scene.background for scene in many} == set(BACKGROUNDS)
    assert {thing.shape for scene in many for thing in scene.things} == set(SHAPES)
    assert {thing.colour for scene in many for thing in scene.things} == set(COLOURS)


def test_a_seed_is_a_scene() -> None:
    assert make_scene(12345) == make_scene(12345)
    assert len({make_scene(seed) for seed in range(200)}) > 190
    assert np.array_equal(render(make_scene(7)), render(make_scene(7)))


def test_things_stay_inside_and_apart() -> None:
    for scene in islice(scenes("validation"), 300):
        taken = np.zeros((GRID + 2, GRID + 2), int)
        for thing in scene.things:
            cells = SIZES[thing.size][0]
            assert 0 <= thing.row <= GRID - cells and 0 <= thing.column <= GRID - cells
            rows = slice(thing.row, thing.row + cells + 1)  # with the free cell after it
            taken[rows, thing.column : thing.column + cells + 1] += 1
        assert taken.max() == 1
        places = [(thing.row, thing.column) for thing in scene.things]
        assert places == sorted(places)


def test_splits_share_no_seed() -> None:
    starts = sorted(SPLITS.values())
    assert all(b - a >= 2**40 for a, b in pairwise(starts))


def test_training_never_shows_a_held_out_combination() -> None:
    kept = list(islice(scenes("train", held_out=False), 800))
    left = list(islice(scenes("test", held_out=True), 80))
    assert not {scene.combination for scene in kept} & {scene.combination for scene in left}
    share = np.mean([scene.held_out for scene in islice(scenes("train"), 3000)])
    assert share == pytest.approx(0.1, abs=0.04)


def test_captions_say_what_is_there() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for scene in islice(scenes("train"), 600):
        said = caption(scene, rng)
        seen.add(said.category)
        assert sum(item.count for item in said.wanted) == len(scene.things)
        for item in said.wanted:
            name = item.shape if item.count == 1 else f"{item.shape}s"
            assert name in said.text or f"{item.shape}es" in said.text
            for look in (item.colour, item.size):
                assert look is None or look in said.text
        if said.background:
            assert said.background in said.text
        if said.relation:
            first, second = (
                next(t for t in scene.things if t.shape == item.shape) for item in said.wanted
            )
            assert relation_of(first, second) == said.relation
            assert relation_of(second, first) == OPPOSITE[said.relation]
    assert seen == {*CATEGORIES, "several"}


def test_a_category_can_be_asked_for() -> None:
    rng = np.random.default_rng(0)
    scene = next(s for s in scenes("train") if s.kind == "pair")
    for category in ("two_objects", "position", "colour_attribution"):
        assert caption(scene, rng, category).category == category
    with pytest.raises(ValueError, match="counting"):
        caption(scene, rng, "counting")


def test_questions_have_right_answers() -> None:
    """Answers checked against the scene by other means than those that made them."""
    rng = np.random.default_rng(0)
    asked = 0
    for scene in islice(scenes("train"), 400):
        for topic in LESSONS:
            q = question(scene, rng, topic)
            if q is None:
                continue
            asked += 1
            words = q.text.rstrip("?.").split()
            there = {(thing.colour, thing.shape) for thing in scene.things}
            if topic == "existence":
                assert (q.answer == "yes") == ((words[-2], words[-1]) in there)
            elif topic == "shape":
                assert (words[-2], q.answer) in there
            elif topic == "colour":
                assert q.answer == scene.background or q.answer in {c for c, _ in there}
            elif topic == "describe":
                assert q.answer == describe(scene) and q.answer in tell(scene)
            elif topic == "place":
                (thing,) = (thing for thing in scene.things if thing.shape == words[-1])
                others = tuple(other for other in scene.things if other is not thing)
                empty = render(dataclasses.replace(scene, things=others))
                y, x = np.argwhere((render(scene) != empty).any(-1)).mean(0)
                assert abs(y - 32) < 4 or ("top" in q.answer) == (y < 32)
                assert abs(x - 32) < 4 or ("left" in q.answer) == (x < 32)
    assert asked > 2000


def test_yes_and_no_are_as_frequent() -> None:
    rng = np.random.default_rng(1)
    for topic in ("existence", "position"):
        answers = [
            q.answer
            for scene in islice(scenes("train"), 1500)
            if (q := question(scene, rng, topic)) and q.answer in ("yes", "no")
        ]
        assert np.mean([answer == "yes" for answer in answers]) == pytest.approx(0.5, abs=0.06)
