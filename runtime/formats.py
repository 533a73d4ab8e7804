"""Tell a file's format by its first bytes, so that a refusal can name what was given.

Mirrors native/core/formats.cpp.
"""

from __future__ import annotations

import re

HEAD = 1024  # bytes that are looked at

# Offset, the bytes at it, and the format's name. The first that fits counts.
SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (8, b"WEBP", "WebP"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "BigTIFF"),
    (0, b"MM\0+", "BigTIFF"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypmsf1", "HEIC"),
    (4, b"ftypcrx ", "raw photo"),
    (4, b"ftyp", "MP4 video"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"8BPS", "Photoshop"),
    (0, b"gimp xcf", "GIMP"),
    (0, b"\0\0\1\0", "icon"),
    (0, b"icns", "icon"),
    (0, b"qoif", "QOI"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"DDS ", "DDS"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (0, b"FUJIFILMCCD-RAW", "raw photo"),
    (8, b"AVI ", "AVI video"),
    (8, b"WAVE", "WAV sound"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM video"),
    (0, b"OggS", "Ogg"),
    (0, b"ID3", "MP3 sound"),
    (0, b"PK\3\4", "ZIP"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"version https://git-lfs", "Git LFS pointer"),
)
# Text files, compared in lower case after a byte order mark and white space.
_TEXTS = (
    (b"<svg", "SVG"),
    (b"<!doctype svg", "SVG"),
    (b"<!doctype html", "HTML"),
    (b"<html", "HTML"),
)
_RIFF = ("WebP", "AVI video", "WAV sound")
_PNM = re.compile(rb"P[1-6][ \t\r\n#]")


def name_format(head: bytes) -> str:
    """Return the name of a file's format, "" if it is unknown.

    Args:
        head: The file's first HEAD bytes.
    """
    for at, signature, name in SIGNATURES:
        if head[at : at + len(signature)] == signature and (
            name not in _RIFF or head.startswith(b"RIFF")
        ):
            return name
    if _PNM.match(head):
        return "PNM"
    text = head[:HEAD].removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").lower()
    for start, name in _TEXTS:
        if text.startswith(start):
            return name
    return "SVG" if text.startswith(b"<?xml") and b"<svg" in text else ""
