"""Square views of an image: padded to be understood, cropped to be drawn.

Shapes: S the square's side, px.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from janus_edge.runtime import image as images

_MOST_ASPECT = 4  # a longer side is cut to so many short sides before it is resized


def padded(
    pixels_HWC: np.ndarray, size: int, fill: tuple[int, int, int] = images.PADDING
) -> np.ndarray:
    """Return an image (S, S, 3) uint8 as the runtime shows it to the vision encoder.

    Args:
        pixels_HWC: The image (H, W, 3) uint8.
        size: S.
        fill: The colour beside the image.
    """
    return np.asarray(images.padded(Image.fromarray(pixels_HWC), size, fill))


def cropped(pixels_HWC: np.ndarray, size: int) -> np.ndarray:
    """Return an image (S, S, 3) uint8 with its short side at S and the middle of its long side.

    Args:
        pixels_HWC: The image (H, W, 3) uint8.
        size: S.

    JanusFlow (arXiv 2411.07975) crops at random places; here an image is encoded once.
    """
    height, width, _ = pixels_HWC.shape
    short = min(height, width)
    pixels_HWC = _middle(pixels_HWC, _MOST_ASPECT * short)  # bounds what resizing takes
    height, width, _ = pixels_HWC.shape
    resized = images.resize(
        Image.fromarray(pixels_HWC), _resized(width, short, size), _resized(height, short, size)
    )
    return np.ascontiguousarray(_middle(np.asarray(resized), size))


def box_in_crop(
    box: Sequence[float], height: int, width: int, size: int
) -> tuple[float, float, float, float]:
    """Return where a box of an image lies in its ``cropped`` view.

    Args:
        box: Left and top edge, width and height in the image, px.
        height: H of the image, px.
        width: W of the image, px.
        size: S.

    Returns:
        The same of the view, px. It may reach beyond it.
    """
    x, y, box_width, box_height = box
    short = min(height, width)
    left, scale_x = _crop_of(width, short, size)
    top, scale_y = _crop_of(height, short, size)
    return x * scale_x - left, y * scale_y - top, box_width * scale_x, box_height * scale_y


def _crop_of(length: int, short: int, size: int) -> tuple[float, float]:
    """Return where a side's crop begins after it was resized, px, and how it is scaled."""
    kept = min(length, _MOST_ASPECT * short)
    resized = _resized(kept, short, size)
    scale = resized / kept
    return (length - kept) // 2 * scale + (resized - size) // 2, scale


def _resized(length: int, short: int, size: int) -> int:
    """Return how long a side is when the short one has the view's size, px."""
    return max(size, round(length * size / short))


def _middle(pixels_HWC: np.ndarray, most: int) -> np.ndarray:
    """Return the middle of an image, at most ``most`` px each way."""
    height, width, _ = pixels_HWC.shape
    top, left = max(0, height - most) // 2, max(0, width - most) // 2
    return pixels_HWC[top : top + most, left : left + most]
