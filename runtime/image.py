"""Read image files, and convert pixels on both sides of the model."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image

from janus_edge.runtime import jpeg, png
from janus_edge.runtime.arguments import PathOrName, checked
from janus_edge.runtime.errors import ImageError, ImageWarning
from janus_edge.runtime.exif import orientation_of
from janus_edge.runtime.formats import HEAD, name_format
from janus_edge.runtime.image_bytes import read_bytes
from janus_edge.runtime.sampling import check_sound

PADDING = (127, 127, 127)
MIN_SIDE = 14  # px
MAX_PIXELS = 100_000_000
_SMALLER = f"make it smaller than {MAX_PIXELS // 1_000_000} megapixels"
MISSING = 128  # grey level of the rows that a cut file lacks
READ_BY_PILLOW = {  # formats by our names and Pillow's; the C++ code reads PNG and JPEG alone
    "AVIF": "AVIF",
    "BMP": "BMP",
    "BigTIFF": "TIFF",
    "GIF": "GIF",
    "JPEG 2000": "JPEG2000",
    "PNM": "PPM",
    "TIFF": "TIFF",
    "WebP": "WEBP",
}
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
    """Return a file's first frame as RGB: upright, transparency over white.

    A PNG or JPEG whose end is missing is read if at least half of it is there. The rest is grey and
    an ImageWarning says so (docs/prompts.md, "Image files").

    Args:
        path: An image file.

    Raises:
        ImageError: The file cannot be read or is no image.
    """
    return decode_image(read_bytes(path), str(path))


def decode_image(raw: bytes, name: str) -> Image.Image:
    """Return the image in a file's bytes, by the rules of ``load_image``.

    Args:
        raw: The whole file.
        name: What errors and warnings call it.

    Raises:
        ImageError: The bytes are no image that can be read.
    """
    image, note = decode_noted(raw, name)
    if note:
        warnings.warn(f"{name}: cut short: {note}", ImageWarning, stacklevel=3)
    return image


def decode_noted(raw: bytes, name: str) -> tuple[Image.Image, str]:
    """Return the image in a file's bytes, and a note on what is missing, "" if it is whole.

    Args:
        raw: The whole file.
        name: What errors call it.

    Raises:
        ImageError: The bytes are no image that can be read.
    """
    kind = name_format(raw[:HEAD])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata and sizes; damage raises
            image, note = _DECODERS.get(kind, _decode_any)(raw, kind)
    except ImageError as error:
        advice = "" if ";" in str(error) else "; give a whole PNG or JPEG file"
        raise ImageError(f"{name}: {error}{advice}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: too many pixels; {_SMALLER}") from None
    except OSError as error:
        raise ImageError(f"{name}: damaged: {error}; give a whole PNG or JPEG file") from None
    except Exception:  # damaged bytes end in TypeError, struct.error, RuntimeError, ...
        raise ImageError(
            f"{name}: not a {kind} file that can be read; give a PNG or JPEG"
        ) from None
    image.info.clear()  # its EXIF orientation would turn the image a second time
    return image, note


def check_size(width: int, height: int) -> None:
    """Raise ImageError, without a file's name, if an image has no pixels or too many.

    Called with the header's numbers, before any pixel is decoded.
    """
    if width < 1 or height < 1:
        raise ImageError(f"{width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}x{height} pixels; {_SMALLER}")


def _decode_png(raw: bytes, kind: str) -> tuple[Image.Image, str]:
    found = png.essence(raw, check_size)
    image = _opened(found.file, "PNG")
    note = _fill(image, found.num_rows)
    return _turned(image, orientation_of(found.exif)), note


def _decode_jpeg(raw: bytes, kind: str) -> tuple[Image.Image, str]:
    found = jpeg.essence(raw, check_size)
    image, note = _opened(found.file, "JPEG"), ""
    if found.is_coarse:
        note = "its last scans are missing, the image is coarse"
    if found.unit:
        note = _fill(image, _rows_there(np.asarray(image) != found.grey, *found.unit))
    return _turned(image, orientation_of(found.exif)), note


def _opened(file: bytes, kind: str) -> Image.Image:
    with Image.open(io.BytesIO(file), formats=[kind]) as opened:
        return rgb(opened)


def _rows_there(is_other: np.ndarray, unit_width: int, unit_height: int) -> int:
    """Return how many rows of a cut JPEG (H, W, 3) are there: up to the last complete row of units.

    libjpeg makes missing units grey. Units beside and below others may have a tint of them in the
    first column and row. A row of units is complete if any part of its last unit is there.
    """
    height, width, _ = is_other.shape
    rows = np.flatnonzero(is_other.any(axis=(1, 2)))
    units = -(-int(rows[-1]) // unit_height) if len(rows) else 0
    top, left = (units - 1) * unit_height, (width - 1) // unit_width * unit_width
    last = is_other[top : units * unit_height, left:]
    inner = last[1:, 1:] if min(last.shape[:2]) > 1 else last
    if units and not inner.any():
        units -= 1
    return min(units * unit_height, height)


def _fill(image: Image.Image, num_rows: int) -> str:
    """Make the rows from ``num_rows`` on grey and return a note on it, "" if none are missing.

    Raises:
        ImageError: Less than half of the rows are there.
    """
    if num_rows == image.height:
        return ""
    png.check_rows(num_rows, image.height)
    image.paste((MISSING,) * 3, (0, num_rows, image.width, image.height))
    return f"{num_rows} of {image.height} rows are there, the rest is grey"


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _decode_any(raw: bytes, kind: str) -> tuple[Image.Image, str]:
    """Decode by Pillow alone, one of the formats that it reads soundly."""
    if kind not in READ_BY_PILLOW:
        what = f"{kind} is not read" if kind else "not an image that can be read"
        raise ImageError(f"{what}; save the image as PNG or JPEG")
    with Image.open(io.BytesIO(raw), formats=[READ_BY_PILLOW[kind]]) as opened:
        check_size(*opened.size)
        if opened.mode == "F" or (opened.mode == "I" and opened.format == "TIFF"):
            raise ImageError(
                "32-bit pixels, whose white is unknown; save it with 8 or 16 bits a channel"
            )
        return rgb(_upright(opened)), ""


_DECODERS = {"PNG": _decode_png, "JPEG": _decode_jpeg}


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # Pillow turns a TIFF itself and drops the tag
    # ImageOps.exif_transpose would also rewrite the EXIF data and fail where that is odd.
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # the metadata is damaged, not the image
        orientation = 1
    return _turned(image, orientation)


def rgb(image: Image.Image) -> Image.Image:
    """Return a new RGB image: transparency over white, the upper 8 of 16 bits."""
    if image.mode.startswith("I"):  # convert() would clip 16-bit grey at 255
        deep = np.asarray(image)
        grey = (deep >> 8).astype(np.uint8)  # the high byte, as Pillow reads 16-bit colour
        grey[deep == image.info.get("transparency", -1)] = 255
        image = Image.fromarray(grey)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def prepare(image: Image.Image, size: int) -> np.ndarray:
    """Return an image as the vision encoder takes it, (1, 3, size, size) float32 in [-1, 1].

    Args:
        image: An image of any mode and size.
        size: The vision encoder's side, px.

    Source: the published image processor (docs/prompts.md).
    """
    pixels = np.asarray(padded(image, size), np.float32) / 255
    return ((pixels - 0.5) / 0.5).transpose(2, 0, 1)[None]


def padded(image: Image.Image, size: int, fill: tuple[int, int, int] = PADDING) -> Image.Image:
    """Return an image as a square: its long side scaled to ``size`` (bicubic, truncated).

    Args:
        image: An image of any mode and size.
        size: The square's side, px.
        fill: The colour of the rest.
    """
    # The order counts: side * (size / longest) can fall below a whole number and lose a pixel.
    longest = max(image.size)
    width, height = (max(int(side / longest * size), MIN_SIDE) for side in image.size)
    resized = resize(rgb(image), width, height)
    square = Image.new("RGB", (size, size), fill)
    square.paste(resized, ((size - width) // 2, (size - height) // 2))
    return square


def resize(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return the image resized to width x height px: bicubic, antialiased.

    Rows are resized first, or columns first where the height shrinks by more than twice what the
    width does. That is the order of Pillow 13. It is spelt out here so that another Pillow, and the
    C++ code, round the same way.
    """
    shrinks = image.height - height
    down_first = shrinks > max(0, 2 * (image.width - width))
    between = (image.width, height) if down_first else (width, image.height)
    bicubic = Image.Resampling.BICUBIC
    return image.resize(between, bicubic).resize((width, height), bicubic)


def to_pixels(image_3HW: np.ndarray) -> np.ndarray:
    """Return the image decoder's output as pixels (H, W, 3) uint8, truncated.

    Args:
        image_3HW: The output, about [-1, 1].

    Raises:
        BundleError: The output is not finite.
    """
    check_sound(image_3HW, "pixels")
    scaled = np.clip((image_3HW + 1) / 2 * 255, 0, 255)
    return scaled.astype(np.uint8).transpose(1, 2, 0)


def enlarge(pixels_HWC: np.ndarray, factor: int) -> np.ndarray:
    """Return pixels with each one as a square of ``factor`` px a side."""
    return pixels_HWC.repeat(factor, axis=0).repeat(factor, axis=1)
