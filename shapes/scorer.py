"""Scorer of images by their pixels alone: segments an image, then names each part.

Segments differ from the background by their colour. A part's colour is the palette entry nearest to
its inner pixels; its shape and size are those of the template with the best overlap, shifted by a
few pixels. Needs scipy (extra ``evals``).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from janus_edge.shapes.captions import Caption, Wanted
from janus_edge.shapes.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, mask_of

MIN_AREA = 24  # px; the smallest true part, a small cross, has about 100
MIN_OVERLAP = 0.7  # soft intersection over union with the best template
MIN_OFFSET = 4.0  # px between centres for a relation to hold
_SHIFT = 2  # px


@dataclass(frozen=True, kw_only=True)
class Found:
    """One part of an image.

    Attributes:
        shape: One of ``SHAPES``; None where no template fits.
        colour: One of ``COLOURS``.
        size: One of ``SIZES``; None where no template fits.
        x: Centre of mass, in pixels from the left.
        y: Centre of mass, in pixels from the top.
    """

    shape: str | None
    colour: str
    size: str | None
    x: float
    y: float


def find(image_HWC: np.ndarray) -> tuple[str, list[Found]]:
    """Return the background's colour and the parts of an image (64, 64, 3) uint8."""
    pixels = image_HWC.astype(np.float32)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    base = np.median(border, axis=0)
    background = _nearest(base, BACKGROUNDS)
    distance = np.linalg.norm(pixels - base, axis=-1)
    labels, _ = ndimage.label(distance > 40)
    found = []
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        part = labels[box] == label
        if part.sum() < MIN_AREA:
            continue
        inner = ndimage.binary_erosion(part)
        colour = np.median(pixels[box][inner if inner.any() else part], axis=0)
        # A pixel's colour mixes the part's and the background's: the mix gives the coverage.
        coverage = np.clip(distance[box] / max(np.linalg.norm(colour - base), 1.0), 0, 1) * part
        shape, size = _best_template(coverage)
        y, x = ndimage.center_of_mass(part)
        found.append(
            Found(
                shape=shape,
                colour=_nearest(colour, COLOURS),
                size=size,
                x=box[1].start + x,
                y=box[0].start + y,
            )
        )
    return background, found


def satisfies(image_HWC: np.ndarray, caption: Caption) -> bool:
    """Return True if an image shows what the caption asks for, and nothing else.

    Args:
        image_HWC: Image (64, 64, 3) uint8.
        caption: What it was asked to show.
    """
    background, found = find(image_HWC)
    alone = len(found) == sum(item.count for item in caption.wanted)
    return alone and _holds(background, found, caption)


def holds(image_HWC: np.ndarray, caption: Caption) -> bool:
    """Return True if an image is right by GenEval's rule: what the caption asks for is there.

    Other things may be there too, but not of a kind that the caption counts. A relation must hold
    for every pair that it could mean.

    Args:
        image_HWC: Image (64, 64, 3) uint8.
        caption: What it was asked to show.

    Source: GenEval, arXiv 2310.11513.
    """
    return _holds(*find(image_HWC), caption)


def _holds(background: str, found: list[Found], caption: Caption) -> bool:
    """Return True if the parts satisfy the caption; other parts are ignored unless it counts."""
    if caption.background not in (None, background):
        return False
    # Captions name a shape once, so no part can stand for two of the wanted things.
    groups = [[part for part in found if _fits(part, item)] for item in caption.wanted]
    for group, item in zip(groups, caption.wanted, strict=True):
        counts = caption.category == "counting"
        if len(group) != item.count if counts else len(group) < item.count:
            return False
    relation = caption.relation
    return relation is None or all(_related(a, b, relation) for a in groups[0] for b in groups[1])


def _fits(part: Found, item: Wanted) -> bool:
    """Return True if a part has the wanted looks."""
    return (
        part.shape == item.shape
        and item.colour in (None, part.colour)
        and item.size in (None, part.size)
    )


def _related(first: Found, second: Found, relation: str) -> bool:
    """Return True if the first part is clearly there, seen from the second."""
    return {
        "left of": second.x - first.x,
        "right of": first.x - second.x,
        "above": second.y - first.y,
        "below": first.y - second.y,
    }[relation] >= MIN_OFFSET


def _best_template(coverage_HW: np.ndarray) -> tuple[str | None, str | None]:
    """Return shape and size of the template with the best soft overlap over all small shifts."""
    height, width = coverage_HW.shape
    templates_KSS, names = _templates()
    side = templates_KSS.shape[1]
    if max(height, width) > side - 2 * _SHIFT:
        return None, None
    best = MIN_OVERLAP
    name: tuple[str, str] | tuple[None, None] = (None, None)
    top, left = (side - height) // 2, (side - width) // 2
    for dy in range(-_SHIFT, _SHIFT + 1):
        for dx in range(-_SHIFT, _SHIFT + 1):
            canvas = np.zeros((side, side), np.float32)
            y, x = top + dy, left + dx
            canvas[y : y + height, x : x + width] = coverage_HW
            shared = np.minimum(templates_KSS, canvas).sum(axis=(1, 2))
            overlap = shared / np.maximum(templates_KSS, canvas).sum(axis=(1, 2))
            k = int(overlap.argmax())
            if overlap[k] > best:
                best, name = float(overlap[k]), names[k]
    return name


@functools.cache
def _templates() -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Return every shape of every size in the middle of one square, (K, S, S), and their names."""
    side = max(mask_of(shape, size).shape[0] for shape in SHAPES for size in SIZES) + 2 * _SHIFT + 2
    canvases, names = [], []
    for shape in SHAPES:
        for size in SIZES:
            mask = mask_of(shape, size)
            start = (side - len(mask)) // 2
            canvas = np.zeros((side, side), np.float32)
            canvas[start : start + len(mask), start : start + len(mask)] = mask
            canvases.append(canvas)
            names.append((shape, size))
    return np.stack(canvases), names


def _nearest(colour: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> str:
    """Return the name of the palette's nearest colour."""
    names = list(palette)
    distances = np.linalg.norm(np.array([palette[name] for name in names]) - colour, axis=1)
    return names[int(distances.argmin())]
