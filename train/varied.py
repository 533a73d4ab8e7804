"""Images with labelled boxes in other sizes, places, shapes, colours and shadings.

Things that always look the same are learned pixel by pixel, and no other drawing of them is known.
Colours change much: about one background in four then looks more like another of the world's
backgrounds. Answers about backgrounds stay right all the same (docs/log.md, 2026-11-30).

Shapes: B batch, S image side.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from janus_edge.data.content import LabelledBox

Boxes = tuple[LabelledBox, ...]
_WAVE = 4 / 96  # in half sides of the image: how far from its place a pixel is taken, at most


def varied(
    pixels_BCHW: Tensor, boxes: list[Boxes], rng: np.random.Generator
) -> tuple[Tensor, list[Boxes]]:
    """Return varied images with their boxes.

    Args:
        pixels_BCHW: Images in [-1, 1].
        boxes: Their boxes, px.
        rng: Source of the changes.
    """
    count, side = len(boxes), pixels_BCHW.shape[-1]
    scale_B2 = rng.uniform(0.75, 1.15, (count, 1)) * np.exp(rng.uniform(-0.11, 0.11, (count, 2)))
    shift_B2 = rng.uniform(-0.08, 0.08, (count, 2)) * side
    theta_B23 = torch.zeros(count, 2, 3)
    theta_B23[:, 0, 0], theta_B23[:, 1, 1] = torch.from_numpy(1 / scale_B2).float().unbind(1)
    theta_B23[:, :, 2] = torch.from_numpy(-shift_B2 / scale_B2 * 2 / side)
    grid_BHW2 = F.affine_grid(theta_B23, list(pixels_BCHW.shape), align_corners=False)
    grid_BHW2 = grid_BHW2 + _waves(count, side, rng)
    moved = F.grid_sample(pixels_BCHW, grid_BHW2, padding_mode="border", align_corners=False)
    start_B2 = shift_B2 + side / 2 * (1 - scale_B2)
    placed = [
        tuple(_moved(box, scale_2, start_2, side) for box in each)
        for each, scale_2, start_2 in zip(boxes, scale_B2, start_B2, strict=True)
    ]
    return _recoloured(moved, rng).clamp(-1, 1), placed


def _waves(count: int, side: int, rng: np.random.Generator) -> Tensor:
    """Return how far from its place each pixel is taken, (B, S, S, 2), in half sides.

    Neighbouring pixels are taken from neighbours; three of ten images stay as they are.
    """
    waves_B2HW = _smooth((count, 2, 5, 5), side, rng) * _some(count, 0.7, 0, _WAVE, rng)
    return waves_B2HW.clamp(-_WAVE, _WAVE).permute(0, 2, 3, 1)


def _some(count: int, share: float, least: float, most: float, rng: np.random.Generator) -> Tensor:
    """Return a random strength per image, (B, 1, 1, 1): 0 for all but a share of the images."""
    drawn_B = rng.uniform(least, most, count) * (rng.random(count) < share)
    return torch.from_numpy(drawn_B).float()[:, None, None, None]


def _smooth(shape: tuple[int, int, int, int], side: int, rng: np.random.Generator) -> Tensor:
    """Return noise of few values, drawn out to images of a side."""
    noise = torch.from_numpy(rng.standard_normal(shape, np.float32))
    return F.interpolate(noise, size=(side, side), mode="bicubic", align_corners=True)


def _recoloured(pixels_BCHW: Tensor, rng: np.random.Generator) -> Tensor:
    """Return images of which some have other colours, some another contrast, some are blurred."""
    count, side = len(pixels_BCHW), pixels_BCHW.shape[-1]

    def some(share: float, least: float, most: float) -> Tensor:
        return _some(count, share, least, most, rng)

    mixed_BKK = torch.from_numpy(rng.standard_normal((count, 3, 3), np.float32))
    mixed_BKK = mixed_BKK * some(0.6, 0, 0.12)[..., 0]
    found = pixels_BCHW + torch.einsum("bij,bjhw->bihw", mixed_BKK, pixels_BCHW)
    found = found * (1 + some(0.5, -0.35, 0.2)) + some(0.5, -0.15, 0.15)
    fine, coarse = _blurred(found, 2), _blurred(found, 4)
    found = torch.lerp(found, fine, some(0.4, 0, 1) - some(0.2, 0, 1))  # below 0 it is sharper
    found = torch.lerp(found, coarse, some(0.2, 0, 1))
    found = torch.lerp(found, found.mean(1, keepdim=True), some(0.4, 0, 0.7))
    found = found + some(0.5, 0, 0.3) * _smooth((count, 3, 3, 3), side, rng)
    found = found + some(0.4, 0, 0.2) * _smooth((count, 1, 8, 8), side, rng)
    noise = torch.from_numpy(rng.standard_normal(found.shape, np.float32))
    return found + some(0.3, 0, 0.06) * noise


def _blurred(pixels_BCHW: Tensor, width: int) -> Tensor:
    small = F.avg_pool2d(pixels_BCHW, width)
    return F.interpolate(small, size=pixels_BCHW.shape[2:], mode="bilinear")


def _moved(found: LabelledBox, scale_2: np.ndarray, start_2: np.ndarray, side: int) -> LabelledBox:
    """Return a box in a scaled and moved image; what reached an edge still reaches it."""
    x, y, width, height = found.box
    low_2, high_2 = np.array([x, y]), np.array([x + width, y + height])
    low, high = low_2 * scale_2 + start_2, high_2 * scale_2 + start_2
    low = np.where(low_2 <= 0, np.minimum(low, 0), low)
    high = np.where(high_2 >= side, np.maximum(high, side), high)
    return LabelledBox(found.label, (*low.tolist(), *(high - low).tolist()))
