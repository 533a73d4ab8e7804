"""Scorer of images by their pixels alone: finds things by comparing parts with all drawings.

Parts differ from the background by their colour. A drawing may fall apart into several (a cloud and
its rain), and drawings may touch: so neighbours are joined over gaps of several widths, and the
division that the drawings explain best is taken. Needs scipy (extra ``evals``).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from PIL import Image
from scipy import ndimage

from janus_edge.things.scenes import BACKGROUNDS
from janus_edge.things.templates import NAMES, rank
from janus_edge.things.wanted import Wish

MIN_SCORE = 0.6  # likeness from which a part is named
MIN_OFFSET = 6.0  # px between centres for a relation to hold
_MIN_SIDE = 9  # px; smaller parts are no things
_MARGIN = 0.67  # of the image's side: background around it, as boxes may reach over its edge
_GAPS = (0, 2, 4, 8, 96)  # px over which parts are joined
_DISTANCES = (14.0, 28.0, 48.0)  # from the background, of 255: a codec's ripples are below
_ENOUGH = 0.025  # part of the whole that may stay unexplained before a higher distance is tried
_PENALTY = 0.025  # what one more part must explain, in parts of the whole


@dataclass(frozen=True, kw_only=True)
class Found:
    """One part of an image.

    Attributes:
        thing: One of ``THINGS``; None where nothing is like it.
        style: One of ``STYLES``; None where nothing is like it.
        box: Left, top, right, bottom in pixels.
        score: Likeness to the drawing, up to 1.
    """

    thing: str | None
    style: str | None
    box: tuple[int, int, int, int]
    score: float

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of its box, (x, y) in pixels."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the scorer says of an image and a caption.

    Attributes:
        holds: What was asked for is there, and counts are exact (GenEval's rule).
        strict: What was asked for is there, and nothing else.
        background: Name of the background's colour.
        found: The parts.
    """

    holds: bool
    strict: bool
    background: str
    found: tuple[Found, ...]


class _Reader:
    """An image as the scorer sees it: background, what differs from it, and likeness of parts."""

    def __init__(self, image_HWC: np.ndarray) -> None:
        pixels = image_HWC.astype(np.float32)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        self.base = np.median(border, axis=0)
        smooth = ndimage.gaussian_filter(pixels, (0.6, 0.6, 0))
        self.distance = np.linalg.norm(smooth - self.base, axis=-1)
        edge = np.concatenate([self.distance[0], self.distance[-1]])
        least = max(_DISTANCES[0], 2.5 * float(np.median(edge)))
        self.masks = [self.distance > max(least, distance) for distance in _DISTANCES]
        height, width = self.distance.shape
        self.margin = margin = round(_MARGIN * max(height, width))
        canvas = np.empty((height + 2 * margin, width + 2 * margin, 3), np.uint8)
        canvas[:] = self.base.round()
        canvas[margin : margin + height, margin : margin + width] = image_HWC
        self.canvas = Image.fromarray(canvas)
        self._ranked: dict[tuple[int, int, int, int], tuple[np.ndarray, np.ndarray]] = {}

    def rank(self, box: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the drawings most like a part, best first, and their likeness."""
        if box not in self._ranked:
            left, top, right, bottom = (float(side + self.margin) for side in box)
            self._ranked[box] = rank(self.canvas, self.base / 255, (left, top, right, bottom))
        return self._ranked[box]

    def boxes(self, gap: int, level: int = 0) -> list[tuple[int, int, int, int]]:
        """Return the boxes of what differs from the background, joined over gaps of some width.

        Args:
            gap: Width in pixels.
            level: Index into ``_DISTANCES``: how much it must differ.
        """
        mask = self.masks[level]
        grown = mask
        if gap:
            reach = np.hypot(*np.ogrid[-gap : gap + 1, -gap : gap + 1]) <= gap / 2 + 0.5
            grown = ndimage.binary_dilation(grown, reach) if gap < 90 else np.ones_like(grown)
        labels, count = ndimage.label(grown, np.ones((3, 3)))
        found = ndimage.find_objects(np.where(mask, labels, 0), count)
        boxes = [(x.start, y.start, x.stop, y.stop) for y, x in (s for s in found if s)]
        return [
            box
            for box in boxes
            if max(box[2] - box[0], box[3] - box[1]) >= _MIN_SIDE
            and not any(_inside(box, other) for other in boxes)
        ]


def _inside(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    """Return True if most of a box lies inside a larger one."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    shared, area = max(width, 0) * max(height, 0), _area(box)
    return area < _area(other) and shared > 0.6 * area


def _area(box: tuple[int, int, int, int]) -> int:
    """Return how many pixels a box has."""
    return (box[2] - box[0]) * (box[3] - box[1])


def things_in(image_HWC: np.ndarray) -> list[Found]:
    """Return the parts of an image (H, W, 3) uint8, by rows of their boxes."""
    return _things_in(_Reader(image_HWC))


def ranking(image_HWC: np.ndarray, count: int = 5) -> list[str]:
    """Return the things that an image of one thing is most like, best first.

    Args:
        image_HWC: Image (H, W, 3) uint8.
        count: How many different things.
    """
    reader = _Reader(image_HWC)
    boxes = [box for level in range(len(_DISTANCES)) for box in reader.boxes(_GAPS[-1], level)]
    if not boxes:
        return []
    # The largest part, by itself and with all that is beside it: whichever is more like a drawing.
    found = _things_in(reader)
    if found:
        boxes.append(max((part.box for part in found), key=_area))
    ranked = max((reader.rank(box) for box in boxes), key=lambda pair: float(pair[1][0]))
    return list(dict.fromkeys(NAMES[k][0] for k in ranked[0].tolist()))[:count]


def background_of(image_HWC: np.ndarray) -> str:
    """Return the name of the background's colour."""
    return _background(_Reader(image_HWC).base)


def judge(image_HWC: np.ndarray, wish: Wish) -> Verdict:
    """Return whether an image shows what a caption asks for.

    A relation must hold for every pair that it could mean.

    Args:
        image_HWC: Image (H, W, 3) uint8.
        wish: What it was asked to show: a caption.

    Source: GenEval, arXiv 2310.11513.
    """
    reader = _Reader(image_HWC)
    found, background = _things_in(reader), _background(reader.base)
    groups = [[part for part in found if part.thing == item.thing] for item in wish.wanted]
    holds = wish.background in (None, background)
    for group, item in zip(groups, wish.wanted, strict=True):
        holds &= len(group) == item.count if item.count > 1 else bool(group)
        holds &= wish.style is None or all(part.style == wish.style for part in group)
    if wish.relation is not None:
        holds &= all(_related(a, b, wish.relation) for a in groups[0] for b in groups[1])
    return Verdict(
        holds=holds,
        strict=holds and len(found) == sum(item.count for item in wish.wanted),
        background=background,
        found=tuple(found),
    )


def _things_in(reader: _Reader) -> list[Found]:
    """Return the parts of the division that the drawings explain best."""
    best: list[Found] = []
    least, seen = 1.0, set()
    for level, gap in product(range(len(_DISTANCES)), _GAPS):
        if gap == 0 and least - _PENALTY * len(best) < _ENOUGH:
            break
        boxes = reader.boxes(gap, level)
        if tuple(boxes) in seen or len(boxes) > 12:
            continue
        seen.add(tuple(boxes))
        found = [_found(reader, box) for box in boxes]
        cost = _unexplained(reader, found) + _PENALTY * len(found)
        if not best or cost < least:
            best, least = found, cost
    return sorted(best, key=lambda part: part.box[1::-1])


def _found(reader: _Reader, box: tuple[int, int, int, int]) -> Found:
    """Return a part with its name."""
    order, scores = reader.rank(box)
    score = float(scores[0])
    thing, style = NAMES[order[0]] if score >= MIN_SCORE else (None, None)
    return Found(thing=thing, style=style, box=box, score=score)


def _unexplained(reader: _Reader, found: list[Found]) -> float:
    """Return how much of what differs from the background no drawing explains, in 0..1."""
    energy = np.where(reader.masks[0], reader.distance, 0)
    score = np.zeros_like(energy)
    for part in found:
        left, top, right, bottom = part.box
        inside = score[top:bottom, left:right]
        np.maximum(inside, part.score, out=inside)
    return 1 - float((energy * score).sum()) / (float(energy.sum()) or 1.0)


def _background(base: np.ndarray) -> str:
    """Return the name of the nearest background."""
    names = list(BACKGROUNDS)
    distances = np.linalg.norm(np.array([BACKGROUNDS[name] for name in names]) - base, axis=1)
    return names[int(distances.argmin())]


def _related(first: Found, second: Found, relation: str) -> bool:
    """Return True if the first part is clearly there, seen from the second."""
    (x1, y1), (x2, y2) = first.centre, second.centre
    return {"left of": x2 - x1, "right of": x1 - x2, "above": y2 - y1, "below": y1 - y2}[
        relation
    ] >= MIN_OFFSET
