"""Views: padded as the runtime pads, cropped to the middle."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from janus_edge.data.views import box_in_crop, cropped, padded
from janus_edge.runtime.image import PADDING, prepare, resize


def _image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (32, 32), (1, 1), (3, 700), (700, 3)])
def test_padded_is_what_the_runtime_shows(shape: tuple[int, int]) -> None:
    image = _image(*shape)
    view = padded(image, 32)
    shown = (view.astype(np.float32) / 255 - 0.5) / 0.5
    assert view.dtype == np.uint8 and view.shape == (32, 32, 3)
    assert (shown.transpose(2, 0, 1) == prepare(Image.fromarray(image), 32)[0]).all()


def test_the_colour_of_padding() -> None:
    assert tuple(padded(_image(10, 40), 32)[0, 0]) == PADDING
    assert tuple(padded(_image(10, 40), 32, (255, 0, 9))[-1, -1]) == (255, 0, 9)


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (32, 32), (64, 65), (31, 33), (20, 20)])
def test_cropped_is_resize_and_centre_crop(shape: tuple[int, int]) -> None:
    image, short = _image(*shape), min(shape)
    height, width = (round(side * 32 / short) for side in shape)
    whole = np.asarray(resize(Image.fromarray(image), width, height))
    top, left = (height - 32) // 2, (width - 32) // 2
    assert (cropped(image, 32) == whole[top : top + 32, left : left + 32]).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 100_000), (100_000, 2), (3, 700)])
def test_narrow_images_take_little_memory(shape: tuple[int, int]) -> None:
    assert cropped(_image(*shape), 384).shape == (384, 384, 3)


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (32, 32), (8, 200), (10, 51), (51, 10)])
def test_a_box_stays_around_what_it_shows(shape: tuple[int, int]) -> None:
    height, width = shape
    x, y, side = width // 2 - 3, height // 2 - 3, 6
    image = np.zeros((height, width, 3), np.uint8)
    image[y : y + side, x : x + side] = 255
    rows, columns = np.nonzero(cropped(image, 64)[..., 0] > 127)
    left, top, box_width, box_height = box_in_crop((x, y, side, side), height, width, 64)
    assert abs(columns.min() - left) <= 1 and abs(columns.max() + 1 - left - box_width) <= 1
    assert abs(rows.min() - top) <= 1 and abs(rows.max() + 1 - top - box_height) <= 1
