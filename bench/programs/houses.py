"""Write 200 captioned images of something that tiny-janus does not know: houses.

    python bench/programs/houses.py photos

A house is a triangle above a square of the same colour, a cell apart, as the tokenizer of the small
models has not seen things that touch. ``is_house`` judges what a model draws.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from janus_edge.shapes.scenes import BACKGROUNDS, COLOURS, Scene, Thing, render
from janus_edge.shapes.scorer import find

COUNT = 200
PROMPTS = [f"a {colour} house" for colour in COLOURS]
_CELLS = 8  # of an image's side
_BOX = 3  # cells of a large thing
_GAP = 1  # cells between roof and wall
_ASIDE = 6.0  # px that the centres of roof and wall may be apart


def house(colour: str, background: str, row: int, column: int) -> np.ndarray:
    """Return the image of a house whose roof is in a cell."""
    parts = [("triangle", row), ("square", row + _BOX + _GAP)]
    things = tuple(
        Thing(shape=shape, colour=colour, size="large", row=at, column=column)
        for shape, at in parts
    )
    return render(Scene(kind="pair", background=background, things=things))


def write(folder: Path) -> None:
    """Write images and captions of the same names, as ``janus-edge data build`` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        colour, background = rng.choice(list(COLOURS)), rng.choice(list(BACKGROUNDS))
        row, column = (
            rng.integers(0, _CELLS - 2 * _BOX - _GAP + 1),
            rng.integers(0, _CELLS - _BOX + 1),
        )
        image = house(str(colour), str(background), int(row), int(column))
        Image.fromarray(image).save(folder / f"{number:03d}.png")
        caption = f"a {colour} house" + (
            f" on a {background} background" if number % 3 == 0 else ""
        )
        (folder / f"{number:03d}.txt").write_text(caption, encoding="utf-8")


def is_wanted(image_HWC: np.ndarray, prompt: str) -> bool:
    """Return whether an image shows what a prompt asks for, and nothing else."""
    return is_house(image_HWC, prompt.split()[1])


def is_house(image_HWC: np.ndarray, colour: str) -> bool:
    """Return whether an image shows a house of a colour, and nothing else."""
    _, parts = find(image_HWC)
    if {part.colour for part in parts} != {colour} or len(parts) != 2:
        return False
    roof, wall = sorted(parts, key=lambda part: part.y)
    is_above = abs(roof.x - wall.x) < _ASIDE and wall.y - roof.y < 1.7 * _BOX * 8
    return (roof.shape, wall.shape) == ("triangle", "square") and is_above


if __name__ == "__main__":
    write(Path(sys.argv[1]))
