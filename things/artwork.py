"""The things of the world and their drawings, from the files in ``artwork``.

``tools/make_artwork.py`` makes the files. A style has one sheet: the drawing of each thing, in the
order of ``THINGS``, in squares of 80 px, its longer side 78 px.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).resolve().parent / "artwork"
STYLES = ("cartoon", "flat", "shaded")
SPRITE = 80  # px
COLUMNS = 24  # drawings in a row of a sheet


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A kind of thing that can be drawn.

    Attributes:
        id: Its name in the files and in what a caption wants.
        category: What it belongs to: ``animals``, ``food``, ...
        emoji: Code points of the emoji, in hexadecimal.
        number: ``singular`` for what can be counted, ``plural`` for names that are plurals already
            ("scissors"), ``none`` for names without article and plural ("bread").
        english: Its names; answers use the first.
        plurals: Plural of each English name; empty unless ``number`` is ``singular``.
        korean: Its Korean names; answers use the first.
        counter: Korean word that counts it.
    """

    id: str
    category: str
    emoji: str
    number: str
    english: tuple[str, ...]
    plurals: tuple[str, ...]
    korean: tuple[str, ...]
    counter: str


def _read() -> dict[str, Thing]:
    """Return the things of ``things.json`` by their ids."""
    entries = json.loads((FOLDER / "things.json").read_text(encoding="utf-8"))
    lists = ("english", "plurals", "korean")
    things = [Thing(**(entry | {key: tuple(entry[key]) for key in lists})) for entry in entries]
    return {thing.id: thing for thing in things}


THINGS: dict[str, Thing] = _read()
CATEGORIES = tuple(dict.fromkeys(thing.category for thing in THINGS.values()))
_NUMBER = {id: number for number, id in enumerate(THINGS)}


@functools.cache
def _sheet(style: str) -> Image.Image:
    """Return a style's sheet, its colours multiplied by opacity."""
    with Image.open(FOLDER / f"{style}.webp") as sheet:
        return sheet.convert("RGBa")


@functools.lru_cache(maxsize=8192)
def sprite(thing: str, style: str, size: int = SPRITE) -> np.ndarray:
    """Return the drawing of a thing: (size, size, 4) uint8, read-only.

    Args:
        thing: One of ``THINGS``.
        style: One of ``STYLES``.
        size: Side in pixels.

    Returns:
        Red, green and blue multiplied by opacity, and opacity.
    """
    y, x = (part * SPRITE for part in divmod(_NUMBER[thing], COLUMNS))
    drawn = _sheet(style).crop((x, y, x + SPRITE, y + SPRITE))
    if size != SPRITE:
        drawn = drawn.resize((size, size), Image.Resampling.BICUBIC)
    # An RGBa image gives its bytes and no array.
    pixels = np.frombuffer(drawn.tobytes(), np.uint8).reshape(size, size, 4)
    found = np.minimum(pixels, pixels[..., 3:])  # a colour is at most its opacity
    found.flags.writeable = False
    return found
