"""Read an image's orientation: the tag Orientation of Exif 2.32. Mirrors native/core/exif.cpp."""

from __future__ import annotations

from typing import Literal

_ORIENTATION, _SHORT, _LONG = 0x0112, 3, 4  # the tag, and two types of values


def orientation_of(tiff: bytes) -> int:
    """Return the orientation, 1 (upright) to 8; 1 where there is none.

    Args:
        tiff: A TIFF header and its first directory.
    """
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"

    def number(at: int, size: int) -> int:
        """Return the number at a byte offset, 0 outside of the bytes."""
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
