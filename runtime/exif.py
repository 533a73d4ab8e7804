"""Which way up an image is: the tag Orientation of Exif 2.32. Equal to native/core/exif.cpp."""

from __future__ import annotations

from typing import Literal

_ORIENTATION, _SHORT, _LONG = 0x0112, 3, 4  # a tag, and types of values


def orientation_of(tiff: bytes) -> int:
    """Return 1 (upright) to 8, of a TIFF header and its first directory; 1 where there is none."""
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"

    def number(at: int, size: int) -> int:
        """0 outside of the bytes."""
        return int.from_bytes(tiff[at : at + size], order) if at + size <= len(tiff) else 0

    first = number(4, 4)
    for index in range(number(first, 2)):
        entry = first + 2 + 12 * index
        if number(entry, 2) != _ORIENTATION:
            continue
        kind = number(entry + 2, 2)
        found = number(entry + 8, 4 if kind == _LONG else 2)
        return found if kind in (_SHORT, _LONG) and 1 <= found <= 8 else 1
    return 1
