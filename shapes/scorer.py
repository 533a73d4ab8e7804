"""The scorer: reads pixels only. Segments by distance to the background, then names each part.

Colour is the palette entry nearest to the part's inner pixels; shape and size are the template of
best overlap, shifted by a few pixels. Needs scipy (extra ``evals``).
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
    """One part of a picture; shape and size are None where no template fits."""

    shape: str | None
    colour: str
    size: str | None
    x: float
    y: float


def find(image_HWC: np.ndarray) -> tuple[str, list[Found]]:
    """Background and parts of a picture (64, 64, 3) uint8."""
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
        # how much of each pixel the part covers, from the mix of its colour and the background's
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
    """Does the picture show exactly what the caption asks for, and nothing else?"""
    background, found = find(image_HWC)
    alone = len(found) == sum(item.count for item in caption.wanted)
    return alone and _holds(background, found, caption)


def holds(image_HWC: np.ndarray, caption: Caption) -> bool:
    """GenEval's rule: what is asked for is there; other things may be too, but not where the
    caption counts. A relation holds for every pair that it could mean. Source: arXiv 2310.11513.
    """
    return _holds(*find(image_HWC), caption)


def _holds(background: str, found: list[Found], caption: Caption) -> bool:
    if caption.background not in (None, background):
        return False
    # captions name a shape once, so no part can stand for two of the things wanted
    groups = [[part for part in found if _fits(part, item)] for item in caption.wanted]
    for group, item in zip(groups, caption.wanted, strict=True):
        counts = caption.category == "counting"
        if len(group) != item.count if counts else len(group) < item.count:
            return False
    relation = caption.relation
    return relation is None or all(_related(a, b, relation) for a in groups[0] for b in groups[1])


def _fits(part: Found, item: Wanted) -> bool:
    return (
        part.shape == item.shape
        and item.colour in (None, part.colour)
        and item.size in (None, part.size)
    )


def _related(first: Found, second: Found, relation: str) -> bool:
    return {
        "left of": second.x - first.x,
        "right of": first.x - second.x,
        "above": second.y - first.y,
        "below": first.y - second.y,
    }[relation] >= MIN_OFFSET


def _best_template(coverage_HW: np.ndarray) -> tuple[str | None, str | None]:
    """Shape and size of the best soft overlap over all small shifts."""
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
    """Every shape of every size in the middle of one square, (K, S, S)."""
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
    names = list(palette)
    distances = np.linalg.norm(np.array([palette[name] for name in names]) - colour, axis=1)
    return names[int(distances.argmin())]
