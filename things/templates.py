"""Every drawing as a template: how like each of them is a part of an image.

A part is taken as a square around it, less the background's colour. A template is what its drawing
would give there. Likeness is 2 x.t / (x.x + t.t): 1 where they are equal, 0 where they share
nothing. It is computed from sums that do not depend on the background, so it is one matrix product.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from janus_edge.things.artwork import STYLES, THINGS, sprite

COARSE, FINE = (
    12,
    32,
)  # px, sides of templates: all are compared by the first, the best by the second
NAMES = tuple((thing, style) for style in STYLES for thing in THINGS)
_KEPT = 96  # templates that are compared in detail
_FLOOR = 0.001  # of the energy of a square that differs from the background everywhere
Box = tuple[float, float, float, float]  # left, top, right, bottom in px


@dataclass(frozen=True)
class Templates:
    """All drawings at one size.

    Attributes:
        colour: (N, 3 P) float32, colours in 0..1 multiplied by opacity, for P pixels.
        alpha: (N, P) float32, opacity.
        colour_squared: (N,) sum of ``colour`` squared.
        colour_alpha: (N, 3) sum of each colour times opacity.
        alpha_squared: (N,) sum of ``alpha`` squared.
    """

    colour: np.ndarray
    alpha: np.ndarray
    colour_squared: np.ndarray
    colour_alpha: np.ndarray
    alpha_squared: np.ndarray


@functools.cache
def templates(side: int) -> Templates:
    """Return all drawings at a size, in the order of ``NAMES``."""
    pixels = np.stack([sprite(*name, side) for name in NAMES]).astype(np.float32) / 255
    count = len(pixels)
    colour = pixels[..., :3].reshape(count, -1, 3)
    alpha = pixels[..., 3].reshape(count, -1)
    return Templates(
        colour=colour.reshape(count, -1),
        alpha=alpha,
        colour_squared=(colour**2).sum(axis=(1, 2)),
        colour_alpha=np.einsum("npc,np->nc", colour, alpha),
        alpha_squared=(alpha**2).sum(axis=1),
    )


def likeness(
    squares: np.ndarray, base: np.ndarray, kept: np.ndarray | slice = slice(None)
) -> np.ndarray:
    """Return how like each square is to each template: (S, N).

    Args:
        squares: Parts of an image less the background, (S, side, side, 3) float32 in -1..1.
        base: The background's colour (3,), in 0..1.
        kept: Indices of the templates to compare with.
    """
    known = templates(squares.shape[1])
    flat = squares.reshape(len(squares), -1)
    dimmed = squares.reshape(len(squares), -1, 3) @ base
    shared = flat @ known.colour[kept].T - dimmed @ known.alpha[kept].T
    energy = (
        known.colour_squared[kept]
        - 2 * known.colour_alpha[kept] @ base
        + (base @ base) * known.alpha_squared[kept]
    )
    own = (flat**2).sum(axis=1)[:, None]
    return 2 * shared / (own + energy + _FLOOR * flat.shape[1])


def rank(image: Image.Image, base: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Return templates from the most to the least like a part of an image.

    Args:
        image: An image with a margin of background around it.
        base: The background's colour (3,), in 0..1.
        box: What surrounds the part, in this image's pixels.

    Returns:
        Indices into ``NAMES`` of the templates compared in detail, and their likeness.
    """
    coarse = likeness(squares(image, base, _near(box, 0.06, 1), COARSE), base).max(axis=0)
    kept = np.argpartition(-coarse, _KEPT)[:_KEPT]
    fine = likeness(squares(image, base, _near(box, 0.03, 2), FINE), base, kept).max(axis=0)
    order = np.argsort(-fine, kind="stable")
    return kept[order], fine[order]


def squares(image: Image.Image, base: np.ndarray, boxes: Sequence[Box], side: int) -> np.ndarray:
    """Return parts of an image less the background, (len(boxes), side, side, 3) float32."""
    parts = [
        np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=box)) for box in boxes
    ]
    return np.stack(parts).astype(np.float32) / 255 - base


def _near(box: Box, step: float, reach: int) -> list[Box]:
    """Return square boxes around a box's centre: three scales, each shifted both ways.

    Args:
        box: A box.
        step: Distance between shifts, as a part of the side.
        reach: Shifts in each direction.
    """
    left, top, right, bottom = box
    x, y = (left + right) / 2, (top + bottom) / 2
    side = max(right - left, bottom - top, 6.0) * 80 / 78  # drawings have a pixel of margin
    found = []
    for scale in (0.94, 1.0, 1.06):
        half = side * scale / 2
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                cx, cy = x + dx * step * side, y + dy * step * side
                found.append((cx - half, cy - half, cx + half, cy + half))
    return found
