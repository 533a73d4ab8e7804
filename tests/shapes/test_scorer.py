from __future__ import annotations

import dataclasses
from itertools import islice

import numpy as np
import pytest

from janus_edge.shapes.captions import Caption, Wanted, caption
from janus_edge.shapes.scenes import BACKGROUNDS, COLOURS, SHAPES, Scene, Thing, render, scenes
from janus_edge.shapes.scorer import find, holds, satisfies


def test_reads_every_scene_from_its_pixels() -> None:
    rng = np.random.default_rng(0)
    for scene in islice(scenes("validation"), 300):
        image = render(scene)
        background, found = find(image)
        assert background == scene.background
        assert sorted((p.shape, p.colour, p.size) for p in found) == sorted(
            (t.shape, t.colour, t.size) for t in scene.things
        )
        assert satisfies(image, caption(scene, rng))


def test_noise_and_blur_are_forgiven() -> None:
    rng = np.random.default_rng(0)
    right = 0
    for scene in islice(scenes("validation"), 60):
        image = render(scene).astype(float)
        image = 0.7 * image + 0.15 * np.roll(image, 1, 0) + 0.15 * np.roll(image, 1, 1)
        image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
        right += satisfies(image, caption(scene, rng))
    assert right >= 54


CIRCLE = Thing(shape="circle", colour="red", size="large", row=0, column=0)
STAR = Thing(shape="star", colour="blue", size="small", row=5, column=5)


def picture(*things: Thing, background: str = "white") -> np.ndarray:
    return render(Scene(kind="pair", background=background, things=things))


def wants(
    *wanted: Wanted,
    relation: str | None = None,
    background: str | None = None,
    category: str = "",
) -> Caption:
    return Caption(
        text="", category=category, wanted=wanted, relation=relation, background=background
    )


RED_CIRCLE, BLUE_STAR = Wanted(shape="circle", colour="red"), Wanted(shape="star", colour="blue")


@pytest.mark.parametrize(
    ("image", "asked", "right"),
    [
        (picture(CIRCLE), wants(RED_CIRCLE), True),
        (picture(CIRCLE), wants(Wanted(shape="circle")), True),
        (picture(CIRCLE), wants(Wanted(shape="square")), False),
        (picture(CIRCLE), wants(Wanted(shape="circle", colour="pink")), False),
        (picture(CIRCLE), wants(Wanted(shape="circle", size="small")), False),
        (picture(CIRCLE), wants(RED_CIRCLE, background="grey"), False),
        (picture(CIRCLE, background="grey"), wants(RED_CIRCLE, background="grey"), True),
        (picture(CIRCLE, STAR), wants(RED_CIRCLE), False),  # one thing too many
        (picture(CIRCLE, STAR), wants(RED_CIRCLE, BLUE_STAR), True),
        (picture(CIRCLE, STAR), wants(RED_CIRCLE, BLUE_STAR, relation="left of"), True),
        (picture(CIRCLE, STAR), wants(RED_CIRCLE, BLUE_STAR, relation="above"), True),
        (picture(CIRCLE, STAR), wants(BLUE_STAR, RED_CIRCLE, relation="left of"), False),
        (picture(CIRCLE, STAR), wants(RED_CIRCLE, BLUE_STAR, relation="below"), False),
        (
            picture(CIRCLE, STAR),  # colours bound to the wrong things
            wants(Wanted(shape="circle", colour="blue"), Wanted(shape="star", colour="red")),
            False,
        ),
        (picture(), wants(RED_CIRCLE), False),
    ],
)
def test_judges(image: np.ndarray, asked: Caption, right: bool) -> None:
    assert satisfies(image, asked) == right


@pytest.mark.parametrize("drawn", range(1, 6))
@pytest.mark.parametrize("asked", range(1, 6))
def test_counts(drawn: int, asked: int) -> None:
    places = [(0, 0), (0, 3), (3, 0), (3, 6), (6, 3)]
    small = dataclasses.replace(CIRCLE, size="small")
    things = [dataclasses.replace(small, row=r, column=c) for r, c in places[:drawn]]
    caption_ = wants(Wanted(shape="circle", colour="red", count=asked))
    assert satisfies(picture(*things), caption_) == (drawn == asked)


def test_genevals_rule_forgives_other_things_but_not_in_counts() -> None:
    image = picture(CIRCLE, STAR)
    assert holds(image, wants(RED_CIRCLE))
    assert holds(image, wants(RED_CIRCLE, BLUE_STAR, relation="left of"))
    assert not holds(image, wants(RED_CIRCLE, BLUE_STAR, relation="right of"))
    assert not holds(image, wants(Wanted(shape="circle", colour="red", count=2)))
    twin = dataclasses.replace(CIRCLE, size="small", row=5, column=0)
    two, counting = picture(CIRCLE, twin), Wanted(shape="circle")
    assert holds(two, wants(counting))
    assert not holds(two, wants(counting, category="counting"))
    assert holds(two, wants(dataclasses.replace(counting, count=2), category="counting"))


def test_a_relation_holds_for_every_pair() -> None:
    right = dataclasses.replace(CIRCLE, size="small", row=1, column=6)
    image = picture(CIRCLE, dataclasses.replace(STAR, row=5, column=3), right)
    assert not holds(image, wants(RED_CIRCLE, BLUE_STAR, relation="left of"))
    assert holds(image, wants(RED_CIRCLE, BLUE_STAR, relation="above"))


def test_every_look_is_told_apart() -> None:
    for background in BACKGROUNDS:
        for colour in COLOURS:
            for shape in SHAPES:
                thing = Thing(shape=shape, colour=colour, size="small", row=2, column=3)
                _, (part,) = find(picture(thing, background=background))
                assert (part.shape, part.colour, part.size) == (shape, colour, "small")


def test_random_pixels_show_nothing_asked_for() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert not satisfies(noise, wants(RED_CIRCLE))
