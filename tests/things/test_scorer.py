from __future__ import annotations

import dataclasses
from itertools import islice, pairwise

import numpy as np
import pytest
from scipy import ndimage

from janus_edge.things.artwork import STYLES, THINGS
from janus_edge.things.captions import caption
from janus_edge.things.scenes import Placed, Scene, render, scenes
from janus_edge.things.scorer import background_of, judge, ranking, things_in
from janus_edge.things.wanted import Wanted, Wish


def spoilt(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an image blurred and with noise, at about 21 dB."""
    blurred = ndimage.gaussian_filter(image.astype(float), (1.0, 1.0, 0))
    return np.clip(blurred + rng.normal(0, 24, image.shape), 0, 255).astype(np.uint8)


def test_a_large_image_with_a_bar_at_its_edge() -> None:
    """The square around it lies beyond the image by two thirds of its side at most."""
    image = np.full((384, 384, 3), 255, np.uint8)
    image[:, 4:20] = 0
    assert len(things_in(image)) == 1
    assert len(ranking(image)) == 5


@pytest.mark.parametrize("count", [80, pytest.param(300, marks=pytest.mark.slow)])
def test_reads_scenes_from_their_pixels(count: int) -> None:
    """Of 600 other scenes it read every one right, and one style wrong."""
    rng = np.random.default_rng(0)
    right = styles = 0
    for scene in islice(scenes("validation"), count):
        image = render(scene)
        verdict = judge(image, caption(scene, rng, "english"))
        found = verdict.found
        right += sorted(str(f.thing) for f in found) == sorted(p.thing for p in scene.things)
        styles += all(f.style == scene.style for f in found)
        assert background_of(image) == scene.background == verdict.background
        assert verdict.strict <= verdict.holds
    assert right >= 0.99 * count and styles >= 0.98 * count


def test_what_is_read_satisfies_its_caption_and_no_other() -> None:
    rng = np.random.default_rng(0)
    some = list(islice(scenes("test"), 40))
    held = [judge(render(s), caption(s, rng, "korean")).strict for s in some]
    assert sum(held) >= 39
    others = [judge(render(s), caption(t, rng, "english")).holds for s, t in pairwise(some)]
    assert sum(others) <= 1


def test_blur_and_noise_are_forgiven() -> None:
    rng = np.random.default_rng(0)
    single = [s for s in islice(scenes("validation"), 70) if s.kind == "single"]
    right = first = 0
    for scene in single:
        image = spoilt(render(scene), rng)
        right += [f.thing for f in things_in(image)] == list(scene.names)
        first += ranking(image, 1) == list(scene.names)
    assert right / len(single) >= 0.93 and first / len(single) >= 0.97


@pytest.mark.parametrize("style", STYLES)
def test_every_thing_is_told_from_all_others(style: str) -> None:
    wrong = []
    for thing in list(THINGS)[::6]:
        placed = Placed(thing=thing, size=64, x=10, y=20)
        scene = Scene(kind="single", style=style, background="yellow", things=(placed,))
        best = ranking(render(scene))
        assert len(best) == len(set(best)) == 5
        if best[0] != thing:
            wrong.append(thing)
    assert wrong == []


CAT = Placed(thing="cat", size=40, x=2, y=4)
DOG = Placed(thing="dog", size=40, x=52, y=50)


def drawn(*things: Placed, background: str = "white", style: str = "cartoon") -> np.ndarray:
    return render(Scene(kind="pair", style=style, background=background, things=things))


def wish(*names: str, count: int = 1, **more: str) -> Wish:
    return Wish(wanted=tuple(Wanted(thing=name, count=count) for name in names), **more)


@pytest.mark.parametrize(
    ("image", "asked", "holds", "strict"),
    [
        (drawn(CAT), wish("cat"), True, True),
        (drawn(CAT), wish("dog"), False, False),
        (drawn(CAT, DOG), wish("cat"), True, False),  # one thing too many
        (drawn(CAT, DOG), wish("cat", "dog"), True, True),
        (drawn(CAT), wish("cat", "dog"), False, False),
        (drawn(CAT, DOG), wish("cat", "dog", relation="left of"), True, True),
        (drawn(CAT, DOG), wish("dog", "cat", relation="left of"), False, False),
        (drawn(CAT, DOG), wish("dog", "cat", relation="below"), True, True),
        (drawn(CAT), wish("cat", background="blue"), False, False),
        (drawn(CAT, background="blue"), wish("cat", background="blue"), True, True),
        (drawn(CAT), wish("cat", style="flat"), False, False),
        (drawn(CAT, style="flat"), wish("cat", style="flat"), True, True),
        (drawn(), wish("cat"), False, False),
    ],
)
def test_judges(image: np.ndarray, asked: Wish, holds: bool, strict: bool) -> None:
    verdict = judge(image, asked)
    assert (verdict.holds, verdict.strict) == (holds, strict)


@pytest.mark.parametrize("there", range(2, 6))
def test_counts(there: int) -> None:
    places = [(2, 2), (34, 40), (66, 2), (2, 68), (66, 68)]
    small = [dataclasses.replace(CAT, size=26, x=x, y=y) for x, y in places[:there]]
    image = drawn(*small)
    for asked in range(2, 6):
        assert judge(image, wish("cat", count=asked)).holds == (asked == there)
    assert judge(image, wish("cat")).holds and not judge(image, wish("cat")).strict


def test_random_pixels_and_plain_ones_show_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    for image in (noise, np.full((96, 96, 3), 255, np.uint8)):
        assert all(found.thing is None for found in things_in(image))
    assert ranking(np.full((96, 96, 3), 255, np.uint8)) == []
