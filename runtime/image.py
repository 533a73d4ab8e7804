"""Picture files in, and the pixel arithmetic on both sides of the model."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from janus_edge.runtime.arguments import PathOrName, checked
from janus_edge.runtime.errors import ImageError
from janus_edge.runtime.sampling import check_sound

PADDING = (127, 127, 127)
MIN_SIDE = 14  # px
MAX_PIXELS = 100_000_000
FORMATS = {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"}
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@checked
def load_image(path: PathOrName) -> Image.Image:
    """Open a picture's first frame as RGB, upright, transparency over white. Raises ImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata and sizes; damage raises
            # Not by name: Pillow would map the file and garble an uncompressed, turned TIFF.
            with Path(path).open("rb") as file, Image.open(file) as opened:
                _check(opened, path)
                picture = rgb(_upright(opened))
        picture.info.clear()  # its EXIF tag would turn the picture a second time
        return picture
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise too_large(path, "too many") from None
    except UnidentifiedImageError:
        raise _unreadable(path) from None
    except OSError as error:
        reason = error.strerror or f"damaged: {error}"
        raise ImageError(f"{path}: {reason}; give a whole PNG or JPEG file") from None
    except Exception:  # damaged bytes end in TypeError, struct.error, RuntimeError, ...
        raise _unreadable(path) from None


def _unreadable(path: Path | str) -> ImageError:
    return ImageError(f"{path}: not a picture that can be read; give a PNG or JPEG")


def too_large(path: Path | str, count: str) -> ImageError:
    """The error of a picture of so many pixels."""
    limit = f"{MAX_PIXELS // 1_000_000} megapixels"
    return ImageError(f"{path}: {count} pixels; make it smaller than {limit}")


def _check(opened: Image.Image, path: Path | str) -> None:
    """Refuse by the header, before any pixel is decoded."""
    if opened.width * opened.height > MAX_PIXELS:
        raise too_large(path, f"{opened.width}x{opened.height}")
    if opened.format not in FORMATS:  # for EPS, Pillow would start another program
        raise ImageError(f"{path}: {opened.format} files are not read; give a PNG or JPEG")
    if opened.mode == "F" or (opened.mode == "I" and opened.format == "TIFF"):
        raise ImageError(
            f"{path}: 32-bit pixels, whose white is unknown; save it with 8 or 16 bits a channel"
        )


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # Pillow turns a TIFF itself and drops the tag
    # Not ImageOps.exif_transpose: it also rewrites the EXIF data and fails where that is odd.
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # the metadata is damaged, not the picture
        orientation = 1
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def rgb(image: Image.Image) -> Image.Image:
    """A new picture in RGB: transparency over white, of 16 bits the upper 8."""
    if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip at 255
        deep = np.asarray(image)
        grey = (deep >> 8).astype(np.uint8)  # the high byte, as Pillow reads 16-bit colour
        grey[deep == image.info.get("transparency", -1)] = 255
        image = Image.fromarray(grey)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def prepare(image: Image.Image, size: int) -> np.ndarray:
    """A picture as the vision encoder takes it, (1, 3, size, size) float32 in [-1, 1].

    The long side is scaled to ``size`` (bicubic, truncated), the rest is grey. Source: the
    published image processor (docs/prompts.md).
    """
    # In this order: side * (size / longest) can fall below a whole number and lose a pixel.
    longest = max(image.size)
    width, height = (max(int(side / longest * size), MIN_SIDE) for side in image.size)
    resized = resize(rgb(image), width, height)
    square = Image.new("RGB", (size, size), PADDING)
    square.paste(resized, ((size - width) // 2, (size - height) // 2))
    pixels = np.asarray(square, np.float32) / 255
    return ((pixels - 0.5) / 0.5).transpose(2, 0, 1)[None]


def resize(image: Image.Image, width: int, height: int) -> Image.Image:
    """Bicubic, antialiased, along rows first, or along columns first where the height shrinks by
    more than twice what the width does. That is the order of Pillow 13, said here so that another
    Pillow, and native code, round as it does."""
    shrinks = image.height - height
    down_first = shrinks > max(0, 2 * (image.width - width))
    between = (image.width, height) if down_first else (width, image.height)
    bicubic = Image.Resampling.BICUBIC
    return image.resize(between, bicubic).resize((width, height), bicubic)


def to_pixels(image_3HW: np.ndarray) -> np.ndarray:
    """The image decoder's output (3, H, W), about [-1, 1], to (H, W, 3) uint8, truncated.

    Raises BundleError where it is not finite.
    """
    check_sound(image_3HW, "pixels")
    scaled = np.clip((image_3HW + 1) / 2 * 255, 0, 255)
    return scaled.astype(np.uint8).transpose(1, 2, 0)


def enlarge(pixels_HWC: np.ndarray, factor: int) -> np.ndarray:
    """Every pixel as a square of ``factor`` pixels a side."""
    return pixels_HWC.repeat(factor, axis=0).repeat(factor, axis=1)
