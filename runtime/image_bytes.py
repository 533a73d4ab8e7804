"""Read an image file's bytes. Only regular files are read, so nothing can hang or be endless."""

from __future__ import annotations

import re
from pathlib import Path

from janus_edge.runtime.errors import ImageError
from janus_edge.runtime.reading import read_regular

MAX_BYTES = 1 << 30

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)


def read_bytes(path: str | Path) -> bytes:
    """Return the content of a regular file of at most MAX_BYTES.

    Raises:
        ImageError: The file cannot be read, or the path is an address.
    """
    try:
        return read_regular(Path(path), MAX_BYTES)
    except OSError as error:
        if url := _URL.fullmatch(str(path)):
            raise ImageError(_no_addresses(*url.groups())) from None
        reason = f"{path}: {error.strerror}"
        raise ImageError(f"{reason}; give a whole PNG or JPEG file") from None
    except ValueError:  # of a zero byte, or of half a surrogate pair
        raise ImageError(f"{path}: is no name of a file; give a PNG or JPEG file") from None


def _no_addresses(scheme: str, rest: str) -> str:
    """Return the error line about an address, whose slashes a path may have lost."""
    slashes = ":///" if scheme.lower() == "file" else "://"
    return f"{scheme}{slashes}{rest}: addresses are not read; download the image and give its path"
