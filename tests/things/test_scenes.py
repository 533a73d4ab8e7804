from __future__ import annotations

import time
from itertools import combinations, islice, pairwise

import numpy as np
import pytest

from janus_edge.things.artwork import STYLES, THINGS
from janus_edge.things.scenes import (
    BACKGROUNDS,
    CELL,
    COUNTABLE,
    IMAGE_SIZE,
    KIND_WEIGHTS,
    KINDS,
    SPLITS,
    USUAL,
    WHITE,
    held_out_style,
    make_scene,
    relation_of,
    render,
    scenes,
)


def test_scenes_show_the_whole_world() -> None:
    many = list(islice(scenes("train"), 3000))
    assert {scene.kind for scene in many} == set(KINDS)
    assert {scene.style for scene in many} == set(STYLES)
    assert {scene.background for scene in many} == set(BACKGROUNDS)
    assert {len(scene.things) for scene in many} == {1, 2, 3, 4}
    assert {placed.thing for scene in many for placed in scene.things} == set(THINGS)
    kinds = [scene.kind for scene in many]
    assert abs(kinds.count("single") / len(many) - KIND_WEIGHTS[0]) < 0.03
    for kind in KINDS:
        of_kind = [scene for scene in many if scene.kind == kind]
        white = np.mean([scene.background == "white" for scene in of_kind])
        usual = np.mean([scene.style == STYLES[0] for scene in of_kind])
        assert abs(white - WHITE[kind]) < 0.08 and abs(usual - USUAL[kind]) < 0.08


def test_a_seed_is_a_scene() -> None:
    assert make_scene(12345) == make_scene(12345)
    assert len({make_scene(seed) for seed in range(200)}) > 195
    assert np.array_equal(render(make_scene(7)), render(make_scene(7)))


def test_things_stay_inside_and_apart() -> None:
    for scene in islice(scenes("validation"), 500):
        for placed in scene.things:
            assert min(placed.x, placed.y) >= 0
            assert placed.x % CELL == placed.y % CELL == placed.size % CELL == 0
            assert max(placed.x, placed.y) + placed.size <= IMAGE_SIZE
        for a, b in combinations(scene.things, 2):
            across = max(a.x, b.x) - min(a.x + a.size, b.x + b.size)
            down = max(a.y, b.y) - min(a.y + a.size, b.y + b.size)
            assert max(across, down) >= 2 * CELL


def test_each_kind_has_its_things() -> None:
    for scene in islice(scenes("validation"), 500):
        names = {placed.thing for placed in scene.things}
        if scene.kind == "repeated":
            assert len(names) == 1 and names <= set(COUNTABLE) and len(scene.things) > 1
        else:
            assert len(names) == len(scene.things)
        if scene.kind == "pair":
            assert relation_of(*scene.things) in ("left of", "above")
            (x1, y1), (x2, y2) = (placed.centre for placed in scene.things)
            assert (x1 == x2) != (y1 == y2)


def test_splits_share_no_seed() -> None:
    starts = sorted(SPLITS.values())
    assert all(b - a >= 2**40 for a, b in pairwise(starts))


def test_training_never_shows_a_held_out_combination() -> None:
    kept = list(islice(scenes("train", held_out=False), 1500))
    left = list(islice(scenes("test", held_out=True), 150))
    assert not any(scene.held_out for scene in kept) and all(scene.held_out for scene in left)
    assert not any(held_out_style(p.thing) == s.style for s in kept for p in s.things)
    counts = {(s.names[0], len(s.things)) for s in kept if s.kind == "repeated"}
    for scene in left:
        if scene.kind == "repeated" and held_out_style(scene.names[0]) != scene.style:
            assert (scene.names[0], len(scene.things)) not in counts


def test_a_tenth_of_combinations_is_held_out_and_no_thing_as_such() -> None:
    styles = [held_out_style(thing) for thing in THINGS]
    assert 0.07 < sum(style is not None for style in styles) / len(styles) / 3 < 0.13
    counted = [s for s in islice(scenes("train"), 4000) if s.kind == "repeated"]
    unusual = [s for s in counted if s.held_out and held_out_style(s.names[0]) != s.style]
    assert 0.05 < len(unusual) / len(counted) < 0.15
    shown = {s.names[0] for s in islice(scenes("train", held_out=False), 8000)}
    assert shown == set(THINGS)


@pytest.mark.parametrize("size", [64, 96, 128])
def test_renders_at_other_sizes(size: int) -> None:
    for scene in islice(scenes("validation"), 20):
        image = render(scene, size)
        assert image.shape == (size, size, 3) and image.dtype == np.uint8
        small = render(scene).reshape(12, 8, 12, 8, 3).mean(axis=(1, 3))
        if size == 128:
            error = abs(image[4::8, 4::8].astype(float).mean() - small.mean())
            assert error < 12


def test_pixels_are_background_where_nothing_is() -> None:
    for scene in islice(scenes("validation"), 50):
        image = render(scene)
        free = np.ones((IMAGE_SIZE, IMAGE_SIZE), bool)
        for p in scene.things:
            free[p.y : p.y + p.size, p.x : p.x + p.size] = False
        assert (image[free] == BACKGROUNDS[scene.background]).all()
        assert (image[~free] != BACKGROUNDS[scene.background]).any()


def test_rendering_is_fast() -> None:
    some = list(islice(scenes("train"), 300))
    render(some[0])
    start = time.process_time()
    for scene in some:
        render(scene)
    assert time.process_time() - start < 3  # a second was measured to be 2300 images
