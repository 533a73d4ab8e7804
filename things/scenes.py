"""Scenes of everyday things on a plain background, deterministic by seed.

A scene has one thing, two in a relation, two to four of the same, or three or four different ones,
all in one style. Each number of things has one layout, and all but single things have one size: so
a small model has few drawings to learn by heart, and no place is left to chance (docs/log.md,
2026-11-29). A conversation may show one thing of a pair alone, at its place and size, or a scene in
another style. Boxes lie on a grid of ``CELL`` px, the stride of the tokenizer.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from janus_edge.things.artwork import STYLES, THINGS, sprite

IMAGE_SIZE = 96  # px
CELL = 8  # px; corners of boxes are multiples of it, and so are their sides
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "grey": (205, 207, 212),
    "pink": (255, 200, 222),
    "orange": (255, 208, 160),
    "yellow": (255, 242, 165),
    "green": (186, 232, 184),
    "blue": (178, 216, 250),
    "purple": (216, 196, 246),
}
# How often the background of a kind is white, and its style the first: colours and styles are
# learned where one thing is alone, and several things are hard enough.
WHITE = {"single": 0.5, "pair": 0.9, "repeated": 0.9, "several": 0.9}
USUAL = {"single": 0.5, "pair": 0.8, "repeated": 0.8, "several": 0.8}

KINDS = ("single", "pair", "repeated", "several")
KIND_WEIGHTS = (0.27, 0.4, 0.25, 0.08)
LARGE, SMALL = 80, 40  # px; the side of a single thing, and of each of several
BESIDE, STACKED = ((0, 24), (56, 24)), ((24, 0), (24, 56))  # top left corners of boxes, px
LAYOUTS = {2: BESIDE, 3: ((0, 0), (56, 0), (24, 56)), 4: ((0, 0), (56, 0), (0, 56), (56, 56))}
HELD_OUT_PERCENT = 10

# First seed of each split: a scene's seed says which split it belongs to, so splits never overlap.
SPLITS = {"train": 0, "validation": 1 << 40, "test": 1 << 41}
Corners = tuple[tuple[int, int], ...]
COUNTABLE = tuple(thing.id for thing in THINGS.values() if thing.number == "singular")


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One thing of a scene.

    Attributes:
        thing: One of ``THINGS``.
        size: Side of its box in pixels.
        x: Left edge of its box.
        y: Top edge of its box.
    """

    thing: str
    size: int
    x: int
    y: int

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of its box, (x, y) in pixels."""
        return self.x + self.size / 2, self.y + self.size / 2


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A scene.

    Attributes:
        kind: One of ``KINDS``.
        style: One of ``STYLES``.
        background: One of ``BACKGROUNDS``.
        things: In reading order: by rows, each from left to right.
    """

    kind: str
    style: str
    background: str
    things: tuple[Placed, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The different things, in the scene's order."""
        return tuple(dict.fromkeys(placed.thing for placed in self.things))

    @property
    def held_out(self) -> bool:
        """True if training never shows one of this scene's combinations.

        Combinations are thing and style, thing and background (of single things, other than white),
        thing and count above one, and two things together. A tenth of each is held out; of a
        thing's styles at most one.
        """
        names = self.names
        return (
            any(held_out_style(name) == self.style for name in names)
            or (self.kind == "single" and _held_out_background(names[0], self.background))
            or (self.kind == "repeated" and _hash(f"{names[0]} * {len(self.things)}"))
            or any(_hash(f"{a} + {b}") for a, b in combinations(sorted(names), 2))
        )


def _hash(text: str) -> bool:
    """Return True for a tenth of all texts."""
    return zlib.crc32(text.encode()) % 100 < HELD_OUT_PERCENT


def _held_out_background(thing: str, background: str) -> bool:
    """Return True for a tenth of things on a background; never for white."""
    return background != "white" and _hash(f"{thing} on {background}")


def held_out_style(thing: str) -> str | None:
    """Return the style in which training never shows a thing, or None.

    So many things have one that it is a tenth of all pairs of thing and style.
    """
    number = zlib.crc32(f"style of {thing}".encode()) % 100
    return STYLES[number % len(STYLES)] if number < HELD_OUT_PERCENT * len(STYLES) else None


def scenes(split: str, start: int = 0, *, held_out: bool | None = None) -> Iterator[Scene]:
    """Yield endless scenes of a split.

    Args:
        split: One of ``SPLITS``.
        start: Index of the first seed in the split.
        held_out: Keep only scenes that show (True) or do not show (False) a combination that is
            held out; None for every scene. Training must ask for False.

    Raises:
        KeyError: There is no such split.
    """
    seed = SPLITS[split] + start
    while True:
        scene = make_scene(seed)
        if held_out is None or scene.held_out == held_out:
            yield scene
        seed += 1


def make_scene(seed: int) -> Scene:
    """Return the scene of a seed."""
    rng = np.random.default_rng(seed)
    kind = KINDS[_choose(rng, KIND_WEIGHTS)]
    style = STYLES[_choose(rng, _first_at(USUAL[kind], len(STYLES)))]
    background = tuple(BACKGROUNDS)[_choose(rng, _first_at(WHITE[kind], len(BACKGROUNDS)))]
    things = _THINGS_OF[kind](rng)
    return Scene(kind=kind, style=style, background=background, things=things)


def render(scene: Scene, size: int = IMAGE_SIZE) -> np.ndarray:
    """Return the image (size, size, 3) uint8 of a scene, RGB, anti-aliased.

    Args:
        scene: What to draw.
        size: Side of the image in pixels; places and sizes scale with it.
    """
    image = np.empty((size, size, 3), np.uint16)
    image[:] = BACKGROUNDS[scene.background]
    scale = size / IMAGE_SIZE
    for placed in scene.things:
        side = round(placed.size * scale)
        drawn = sprite(placed.thing, scene.style, side)
        x, y = round(placed.x * scale), round(placed.y * scale)
        patch = image[y : y + side, x : x + side]
        drawn = drawn[: patch.shape[0], : patch.shape[1]]
        patch *= 255 - drawn[..., 3:].astype(np.uint16)
        patch += 127
        patch //= 255
        patch += drawn[..., :3]
    return np.minimum(image, 255).astype(np.uint8)


def relation_of(first: Placed, second: Placed) -> str:
    """Return where the first thing is, seen from the second, along the longer axis."""
    (x1, y1), (x2, y2) = first.centre, second.centre
    if abs(x1 - x2) >= abs(y1 - y2):
        return "left of" if x1 < x2 else "right of"
    return "above" if y1 < y2 else "below"


def side_of(placed: Placed) -> str | None:
    """Return on which side of the image a thing is, as ``relation_of`` names it, or None."""
    middle = IMAGE_SIZE // 2
    if placed.centre == (middle, middle):
        return None
    return relation_of(
        placed,
        dataclasses.replace(placed, x=middle - placed.size // 2, y=middle - placed.size // 2),
    )


def one_of_pair(scene: Scene, rng: np.random.Generator) -> Scene:
    """Return a pair with one of its things alone, where it is; any other scene as it is."""
    if scene.kind != "pair":
        return scene
    alone = scene.things[int(rng.integers(2))]
    return dataclasses.replace(scene, kind="single", things=(alone,))


def restyled(scene: Scene, rng: np.random.Generator) -> Scene:
    """Return a scene in one of all styles, each as likely."""
    return dataclasses.replace(scene, style=_pick(rng, STYLES))


def _single(rng: np.random.Generator) -> tuple[Placed, ...]:
    margin = (IMAGE_SIZE - LARGE) // 2
    return (Placed(thing=_pick(rng, tuple(THINGS)), size=LARGE, x=margin, y=margin),)


def _pair(rng: np.random.Generator) -> tuple[Placed, ...]:
    """Return two different things, side by side or one above the other."""
    return _placed(_different(rng, 2), BESIDE if rng.random() < 0.5 else STACKED)


def _repeated(rng: np.random.Generator) -> tuple[Placed, ...]:
    """Return two to four of the same thing."""
    count = int(rng.integers(2, 5))
    return _placed([_pick(rng, COUNTABLE)] * count, LAYOUTS[count])


def _several(rng: np.random.Generator) -> tuple[Placed, ...]:
    """Return three or four different things."""
    count = int(rng.integers(3, 5))
    return _placed(_different(rng, count), LAYOUTS[count])


_THINGS_OF = dict(zip(KINDS, (_single, _pair, _repeated, _several), strict=True))


def _different(rng: np.random.Generator, count: int) -> list[str]:
    names = tuple(THINGS)
    return [names[int(i)] for i in rng.choice(len(names), count, replace=False)]


def _placed(names: list[str], corners: Corners) -> tuple[Placed, ...]:
    return tuple(
        Placed(thing=name, size=SMALL, x=x, y=y)
        for name, (x, y) in zip(names, corners, strict=True)
    )


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _first_at(share: float, count: int) -> tuple[float, ...]:
    """Return weights of some options: the first has a share, the others have the rest alike."""
    return share, *[(1 - share) / (count - 1)] * (count - 1)


def _choose(rng: np.random.Generator, weights: tuple[float, ...]) -> int:
    """Return a random index with these relative weights."""
    return int(np.searchsorted(np.cumsum(weights), rng.random() * sum(weights), side="right"))
