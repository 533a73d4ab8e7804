"""Picture files in and out, and the pixel arithmetic on both sides of the model."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from janus_edge.runtime.errors import ImageError, OutputError
from janus_edge.runtime.files import whole

PADDING = (127, 127, 127)
MIN_SIDE = 14  # px
MAX_PIXELS = 100_000_000


def load_image(path: Path) -> Image.Image:
    """Open a picture as RGB, upright, transparency over white. Raises ImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path)
        with opened:
            return _upright_rgb(opened, path)
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError):
        raise ImageError(f"{path}: not a picture that can be read; give a PNG or JPEG") from None
    except OSError as error:
        reason = error.strerror or f"damaged: {error}"
        raise ImageError(f"{path}: {reason}; give a whole PNG or JPEG file") from None


def _upright_rgb(opened: Image.Image, path: Path) -> Image.Image:
    if opened.width * opened.height > MAX_PIXELS:
        raise ImageError(
            f"{path}: {opened.width}x{opened.height} pixels; make it smaller than "
            f"{MAX_PIXELS // 1_000_000} megapixels"
        )
    image = ImageOps.exif_transpose(opened)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def prepare(image: Image.Image, size: int) -> np.ndarray:
    """A picture as the vision encoder takes it, (1, 3, size, size) float32 in [-1, 1].

    The long side is scaled to ``size`` (bicubic, truncated), the rest is grey. Source: the
    published image processor.
    """
    scale = size / max(image.size)
    width, height = (max(int(side * scale), MIN_SIDE) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    square = Image.new("RGB", (size, size), PADDING)
    square.paste(resized, ((size - width) // 2, (size - height) // 2))
    pixels = np.asarray(square, np.float32) / 255
    return ((pixels - 0.5) / 0.5).transpose(2, 0, 1)[None]


def to_pixels(image_3HW: np.ndarray) -> np.ndarray:
    """The image decoder's output (3, H, W), about [-1, 1], to (H, W, 3) uint8, truncated."""
    scaled = np.clip((image_3HW + 1) / 2 * 255, 0, 255)
    return scaled.astype(np.uint8).transpose(1, 2, 0)


def save_png(pixels_HWC: np.ndarray, path: Path, texts: dict[str, str]) -> None:
    """Write a PNG with text chunks; it appears whole or not at all. Raises OutputError."""
    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text)
    try:
        with whole(path) as part:
            Image.fromarray(pixels_HWC).save(part, format="PNG", pnginfo=info)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written: {error.strerror}; choose another place with -o"
        ) from None


def check_writable(path: Path) -> None:
    """Raise OutputError now if a file cannot appear there, not after the picture is drawn."""
    folder = path.parent
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file, like {path / 'out.png'}")
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder; make it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder}: cannot be written; choose another place")


def make_folder(path: Path) -> None:
    """Make a folder with its parents, or leave it. Raises OutputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}; choose another folder") from None
