"""Procedural scenes: one to five flat shapes on a plain background, deterministic by seed.

Objects sit on a grid of 8 px cells, in boxes of two or three cells a side with a free cell between
any two. Images stay readable at 64 px, and one cell is one code of the tokenizer.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

IMAGE_SIZE = 64  # px
CELL = 8  # px
GRID = IMAGE_SIZE // CELL

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "orange": (255, 140, 20),
    "yellow": (250, 220, 40),
    "green": (40, 160, 60),
    "cyan": (60, 200, 220),
    "blue": (40, 70, 220),
    "purple": (140, 40, 200),
    "pink": (255, 105, 180),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (244, 244, 244),
    "beige": (222, 205, 170),
    "grey": (128, 128, 128),
    "black": (16, 16, 16),
}
SIZES: dict[str, tuple[int, float]] = {"small": (2, 7.0), "large": (3, 11.0)}  # cells, radius in px

KINDS = ("single", "pair", "repeated", "several")
KIND_WEIGHTS = (0.16, 0.47, 0.25, 0.12)
MAX_OBJECTS = 5
HELD_OUT_PERCENT = 10

# First seed of each split: a scene's seed says which split it belongs to, so splits never overlap.
SPLITS = {"train": 0, "validation": 1 << 40, "test": 1 << 41}


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object of a scene.

    Attributes:
        shape: One of ``SHAPES``.
        colour: One of ``COLOURS``.
        size: One of ``SIZES``; its box is ``SIZES[size][0]`` cells wide.
        row: First row of its box, in cells.
        column: First column of its box, in cells.
    """

    shape: str
    colour: str
    size: str
    row: int
    column: int

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of its box, (x, y) in pixels."""
        half = SIZES[self.size][0] * CELL / 2
        return self.column * CELL + half, self.row * CELL + half


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A scene.

    Attributes:
        kind: One of ``KINDS``.
        background: One of ``BACKGROUNDS``.
        things: Objects in raster order of their boxes (top row first, then left column).
    """

    kind: str
    background: str
    things: tuple[Thing, ...]

    @property
    def combination(self) -> tuple[tuple[str, str], ...]:
        """What is shown, without places and sizes: a sorted multiset of (colour, shape)."""
        return tuple(sorted((thing.colour, thing.shape) for thing in self.things))

    @property
    def held_out(self) -> bool:
        """True for the tenth of all combinations that training never shows."""
        return zlib.crc32(repr(self.combination).encode()) % 100 < HELD_OUT_PERCENT


def scenes(split: str, start: int = 0, *, held_out: bool | None = None) -> Iterator[Scene]:
    """Yield endless scenes of a split.

    Args:
        split: One of ``SPLITS``.
        start: Index of the first seed in the split.
        held_out: Keep only scenes whose combination is (True) or is not (False) held out; None for
            every scene. Training must ask for False.

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
    background = _pick(rng, tuple(BACKGROUNDS))
    looks = _LOOKS[kind](rng)
    return Scene(kind=kind, background=background, things=_place(rng, looks))


def render(scene: Scene) -> np.ndarray:
    """Return the image (64, 64, 3) uint8 of a scene, RGB, anti-aliased."""
    image = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
    image[:] = BACKGROUNDS[scene.background]
    for thing in scene.things:
        mask = mask_of(thing.shape, thing.size)
        side = mask.shape[0]
        y, x = thing.row * CELL, thing.column * CELL
        patch = image[y : y + side, x : x + side]
        patch += mask[..., None] * (np.array(COLOURS[thing.colour], np.float32) - patch)
    return (image + 0.5).astype(np.uint8)


@functools.cache
def mask_of(shape: str, size: str, oversample: int = 8) -> np.ndarray:
    """Return the coverage of each pixel of a thing's box, (S, S) float32 in 0..1.

    Args:
        shape: One of ``SHAPES``.
        size: One of ``SIZES``.
        oversample: Samples per pixel, along each side.
    """
    cells, radius = SIZES[size]
    side = cells * CELL
    ticks = (np.arange(side * oversample) + 0.5) / oversample - side / 2
    x, y = np.meshgrid(ticks / radius, ticks / radius)
    inside = _INSIDE[shape](x, y).astype(np.float32)
    return inside.reshape(side, oversample, side, oversample).mean(axis=(1, 3))


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(abs(x), abs(y)) <= 0.9


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x * x + y * y <= 1.0


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (abs(x) <= (y + 0.95) * 0.56) & (y <= 0.85)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 1.0)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return where a star of five points is.

    Within a sector, its edge is the line from an outer to an inner corner.
    """
    y = y - 0.06
    sector = np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + sector) % (2 * sector) - sector)
    radius, inner = np.hypot(x, y), 0.48
    px, py = radius * np.cos(angle), radius * np.sin(angle)
    ix, iy = inner * np.cos(sector), inner * np.sin(sector)
    return py * (1.05 - ix) <= iy * (1.05 - px)


_INSIDE = dict(zip(SHAPES, (_circle, _square, _triangle, _star, _cross), strict=True))

Look = tuple[str, str, str]  # shape, colour, size


def _single(rng: np.random.Generator) -> list[Look]:
    return [_look(rng)]


def _pair(rng: np.random.Generator) -> list[Look]:
    """Return two things of different shapes, so that the shape alone names either."""
    first = _look(rng)
    return [first, _other(rng, {first[0]})]


def _repeated(rng: np.random.Generator) -> list[Look]:
    """Return two to five of the same thing; large ones only where they always fit."""
    shape, colour, size = _look(rng)
    count = int(rng.integers(2, MAX_OBJECTS + 1))
    return [(shape, colour, size if count < 4 else "small")] * count


def _several(rng: np.random.Generator) -> list[Look]:
    """Return three to five things of different shapes."""
    shapes = rng.permutation(len(SHAPES))[: rng.integers(3, MAX_OBJECTS + 1)]
    sizes = tuple(SIZES) if len(shapes) == 3 else ("small",)
    return [(SHAPES[s], _pick(rng, tuple(COLOURS)), _pick(rng, sizes)) for s in shapes]


_LOOKS = dict(zip(KINDS, (_single, _pair, _repeated, _several), strict=True))


def _look(rng: np.random.Generator) -> Look:
    """Return a random look."""
    return _pick(rng, SHAPES), _pick(rng, tuple(COLOURS)), _pick(rng, tuple(SIZES))


def _other(rng: np.random.Generator, taken: set[str]) -> Look:
    """Return a random look of another shape."""
    _, colour, size = _look(rng)
    return _pick(rng, tuple(s for s in SHAPES if s not in taken)), colour, size


def _place(rng: np.random.Generator, looks: list[Look]) -> tuple[Thing, ...]:
    """Return things in random boxes with a free cell between any two.

    It starts again if a thing finds no room.
    """
    while True:
        free = np.ones((GRID, GRID), bool)
        things: list[Thing] = []
        for shape, colour, size in looks:
            cells = SIZES[size][0]
            for _ in range(12):
                row, column = (int(v) for v in rng.integers(0, GRID - cells + 1, 2))
                if free[row : row + cells, column : column + cells].all():
                    break
            else:
                break
            free[max(row - 1, 0) : row + cells + 1, max(column - 1, 0) : column + cells + 1] = False
            things.append(Thing(shape=shape, colour=colour, size=size, row=row, column=column))
        if len(things) == len(looks):
            return tuple(sorted(things, key=lambda thing: (thing.row, thing.column)))


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _choose(rng: np.random.Generator, weights: tuple[float, ...]) -> int:
    """Return a random index with these relative weights."""
    return int(np.searchsorted(np.cumsum(weights), rng.random() * sum(weights), side="right"))
