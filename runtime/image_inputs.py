"""Convert what an embedding program gives as an image to a PIL image in RGB."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from PIL import Image as PilImage

from janus_edge.runtime import image as images
from janus_edge.runtime.arguments import shown
from janus_edge.runtime.errors import ImageError, OptionError
from janus_edge.runtime.events import Image, Preview

ImageLike = str | os.PathLike[str] | PilImage.Image | Image | Preview | np.ndarray

_GIVE = (
    "give a path, a PIL image, an Image event or an array (H, W), (H, W, 3) or (H, W, 4) of uint8"
)


def to_images(given: Any) -> tuple[PilImage.Image, ...]:
    """Return images as RGB, in order.

    Args:
        given: One image, or several in a tuple or list; the types are those of ``ImageLike``.

    Raises:
        ImageError: A file or PIL image cannot be read, or has no size that is allowed.
        OptionError: A value is of another type, or an array of another shape or dtype.
    """
    several = given if isinstance(given, tuple | list) else (given,)
    return tuple(_to_image(each, f"images[{i}]") for i, each in enumerate(several))


def _to_image(given: Any, name: str) -> PilImage.Image:
    """Return one image as RGB; ``name`` is what errors call it."""
    if isinstance(given, str | os.PathLike):
        return images.load_image(given)  # type: ignore[arg-type] # it refuses a path of bytes
    if isinstance(pixels := getattr(given, "pixels", None), np.ndarray):  # an event, a DrawnImage
        given = pixels
    if isinstance(given, np.ndarray):
        return _of_array(given, name)
    if not isinstance(given, PilImage.Image):
        raise OptionError(f"{name} is {shown(given)}; {_GIVE}")
    _check_size(given.width, given.height, name)
    if given.mode in ("F", "I"):
        raise ImageError(f"{name}: 32-bit pixels, whose white is unknown; convert it to RGB")
    try:
        return images.rgb(given)
    except Exception as error:  # its file is closed, damaged or cut
        raise ImageError(f"{name}: a PIL image that cannot be read: {error}") from None


def _of_array(pixels: np.ndarray, name: str) -> PilImage.Image:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or pixels.shape[2:] in ((3,), (4,))):
        raise OptionError(f"{name} is an array {pixels.shape} of {pixels.dtype}; {_GIVE}")
    _check_size(pixels.shape[1], pixels.shape[0], name)
    return images.rgb(PilImage.fromarray(pixels.copy()))


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name} has {width}x{height} pixels; give a picture of at least 1x1")
    try:
        images.check_size(width, height)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
