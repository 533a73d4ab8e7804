"""Write 200 captioned images of something that tiny-things does not know: a blip.

    python bench/programs/blips.py photos

A blip is a round purple creature with one eye and two antennae. ``is_blip`` judges what a model
draws.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from janus_edge.things.scenes import BACKGROUNDS, IMAGE_SIZE, LARGE
from janus_edge.things.scorer import MIN_SCORE, things_in
from janus_edge.things.templates import squares

COUNT = 200
PROMPTS = ("blip", "a blip", "one blip please", "a picture of a blip", "draw a blip")
_UNIT = 320  # px that the creature is drawn in
_SIDE = 32  # px that a part is compared in
_PURPLE, _DARK, _YELLOW, _WHITE = "#8e44c7", "#4a1f6e", "#ffc800", "#ffffff"
# What it consists of: shape, box or line in _UNIT, and colour.
_PARTS = (
    ("line", (130, 100, 90, 36), _DARK),
    ("line", (190, 100, 230, 36), _DARK),
    ("ellipse", (66, 10, 114, 58), _YELLOW),
    ("ellipse", (206, 10, 254, 58), _YELLOW),
    ("ellipse", (84, 256, 150, 316), _DARK),
    ("ellipse", (170, 256, 236, 316), _DARK),
    ("ellipse", (36, 66, 284, 300), _PURPLE),
    ("ellipse", (100, 104, 220, 224), _WHITE),
    ("ellipse", (132, 138, 188, 194), _DARK),
)


@functools.cache
def creature(size: int) -> np.ndarray:
    """Return a blip: (size, size, 4) uint8, colours multiplied by opacity."""
    drawn = Image.new("RGBA", (_UNIT, _UNIT))
    pen = ImageDraw.Draw(drawn)
    for shape, box, colour in _PARTS:
        if shape == "line":
            pen.line(box, colour, width=16)
        else:
            pen.ellipse(box, colour)
    small = drawn.convert("RGBa").resize((size, size), Image.Resampling.BICUBIC)
    return np.frombuffer(small.tobytes(), np.uint8).reshape(size, size, 4)


def picture(background: str, size: int, x: int, y: int) -> np.ndarray:
    """Return the image (96, 96, 3) uint8 of a blip of a size on a background."""
    image = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint16)
    image[:] = BACKGROUNDS[background]
    drawn = creature(size).astype(np.uint16)
    patch = image[y : y + size, x : x + size]
    patch[:] = patch * (255 - drawn[..., 3:]) // 255 + drawn[..., :3]
    return np.minimum(image, 255).astype(np.uint8)


def write(folder: Path) -> None:
    """Write images and captions of the same names, as ``janus-edge data build`` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    names = list(BACKGROUNDS)
    for number in range(COUNT):
        background = names[int(rng.integers(len(names)))] if number % 2 else "white"
        margin = (IMAGE_SIZE - LARGE) // 2  # as a single thing of the world
        image = picture(background, LARGE, margin, margin)
        Image.fromarray(image).save(folder / f"{number:03d}.png")
        caption = PROMPTS[int(rng.integers(len(PROMPTS)))]
        if number % 4 == 1:
            caption = f"a blip on a {background} background"
        (folder / f"{number:03d}.txt").write_text(caption, encoding="utf-8")


def is_wanted(image_HWC: np.ndarray, _prompt: str) -> bool:
    """Return whether an image shows a blip, which each prompt asks for."""
    return is_blip(image_HWC)


def is_blip(image_HWC: np.ndarray) -> bool:
    """Return whether an image shows one thing, which is more like a blip than like any other."""
    found = things_in(image_HWC)
    if len(found) != 1:
        return False
    return _likeness(image_HWC, found[0].box) > max(MIN_SCORE, found[0].score)


def _likeness(image_HWC: np.ndarray, box: tuple[int, int, int, int]) -> float:
    """Return how like a part is to a blip, up to 1: as ``things/templates.py`` compares."""
    base = np.median(image_HWC[0], axis=0) / 255
    side = max(box[2] - box[0], box[3] - box[1]) * 1.02
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    margin = IMAGE_SIZE
    wide = np.pad(image_HWC, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    places = [
        (x + margin + dx - scale, y + margin + dy - scale, x + margin + dx + scale,
         y + margin + dy + scale)
        for scale in (side * 0.47, side * 0.5, side * 0.53)
        for dx in range(-3, 4)
        for dy in range(-3, 4)
    ]  # fmt: skip
    parts = squares(Image.fromarray(wide), base, places, _SIDE)
    drawn = creature(_SIDE).astype(np.float32) / 255
    wanted = drawn[..., :3] - drawn[..., 3:] * base
    shared = (parts * wanted).sum(axis=(1, 2, 3))
    energy = (parts**2).sum(axis=(1, 2, 3)) + (wanted**2).sum()
    return float((2 * shared / energy).max())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
