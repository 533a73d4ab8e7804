"""Write images as files: in the format of their name, with their settings inside."""

from __future__ import annotations

import io
import json
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from janus_edge.runtime.errors import ImageError, OptionError
from janus_edge.runtime.image_bytes import read_bytes
from janus_edge.runtime.output import is_stream, write_output

PNG, JPEG, WEBP = "PNG", "JPEG", "WEBP"
FORMATS = {"": PNG, ".png": PNG, ".jpg": JPEG, ".jpeg": JPEG, ".webp": WEBP}
# JPEG: the highest sensible quality, colour at full resolution. WebP: lossless.
_OPTIONS = {
    PNG: {},
    JPEG: {"quality": 95, "subsampling": 0},
    WEBP: {"lossless": True, "quality": 80, "method": 4},
}
_ASCII = b"ASCII\0\0\0"  # how a UserComment begins, by Exif 2.3, table 9
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # what a prompt that was no UTF-8 may hold
_MAX_EXIF = 65_000  # bytes; a JPEG segment has room for 65,533


def format_of(path: Path) -> str:
    """Return the format that a file's name asks for.

    PNG where the name has no suffix, is a device or is standard output.

    Raises:
        OptionError: The suffix is of no format that is written.
    """
    suffix = path.suffix.lower()
    if suffix in FORMATS:
        return FORMATS[suffix]
    if is_stream(path):
        return PNG
    raise OptionError(f"{path}: {suffix} is not written; name a .png, .jpg or .webp file")


def encode(pixels_HWC: np.ndarray, kind: str, texts: dict[str, str]) -> bytes:
    """Return an image as the bytes of a file, with its settings inside.

    A PNG has one text chunk per setting. JPEG and WebP have all as one JSON object in the
    UserComment of EXIF.

    Args:
        pixels_HWC: The image (H, W, 3) uint8.
        kind: PNG, JPEG or WEBP.
        texts: The settings by name.

    Raises:
        OptionError: The settings are too long for EXIF.
    """
    file = io.BytesIO()
    texts = {key: _NO_TEXT.sub("\ufffd", text) for key, text in texts.items()}
    if kind == PNG:
        info = PngInfo()
        for key, text in texts.items():
            info.add_itxt(key, text)
        Image.fromarray(pixels_HWC).save(file, format=PNG, pnginfo=info)
    else:
        Image.fromarray(pixels_HWC).save(file, format=kind, exif=_exif(texts), **_OPTIONS[kind])
    return file.getvalue()


def check_fit(kind: str, texts: dict[str, str]) -> None:
    """Raise OptionError, before the image is drawn, if a format has no room for the settings."""
    if kind != PNG:
        _exif(texts)


def save_image(pixels_HWC: np.ndarray, path: Path, texts: dict[str, str]) -> None:
    """Write an image in the format of its name, by the rules of ``write_output``.

    Args:
        pixels_HWC: The image (H, W, 3) uint8.
        path: The file.
        texts: Settings to store inside, by name.

    Raises:
        OutputError: The file cannot be written.
        OptionError: The format is unknown, or has no room for the settings.
    """
    write_output(path, encode(pixels_HWC, format_of(path), texts))


def read_texts(path: Path) -> dict[str, str]:
    """Return the settings inside an image file, by name; none of a file without any.

    Args:
        path: A PNG, JPEG or WebP file.

    Raises:
        ImageError: It is missing, damaged or no image.
    """
    raw = read_bytes(path)
    try:
        with Image.open(io.BytesIO(raw)) as image:
            image.load()
            exif = image.getexif().get_ifd(ExifTags.IFD.Exif)
            comment = exif.get(ExifTags.Base.UserComment, b"")
            texts = {str(k): str(v) for k, v in getattr(image, "text", {}).items()}
    except Exception as error:  # a damaged file is anything to Pillow
        reason = "no image that can be read; name an image that generate wrote"
        raise ImageError(f"{path}: {reason}") from error
    with suppress(ValueError):
        found = json.loads(bytes(comment).removeprefix(_ASCII))
        texts |= {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
    return texts


def _exif(texts: dict[str, str]) -> bytes:
    exif = Image.Exif()
    if texts:
        exif[ExifTags.Base.Software] = texts.get("Software", "")
        comment = _ASCII + json.dumps(texts).encode()  # json.dumps escapes all but ASCII
        exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment: comment}
    found = exif.tobytes()
    if len(found) > _MAX_EXIF:
        raise OptionError(
            f"the prompt is too long for the settings of a JPEG or WebP ({_MAX_EXIF} bytes); "
            "write a PNG"
        )
    return found
