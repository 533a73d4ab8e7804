"""Shards for tests, written by the standard library alone."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image


def image_file(colour: str = "red", size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    """An image file of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format=kind)
    return file.getvalue()


def noise(size: int = 64) -> bytes:
    """A JPEG with content in every part."""
    file = io.BytesIO()
    Image.effect_noise((size, size), 90).convert("RGB").save(file, format="JPEG")
    return file.getvalue()


def as_json(**keys: Any) -> bytes:
    return json.dumps(keys).encode()


def write_tar(path: Path, members: list[tuple[str, bytes]], **options: Any) -> Path:
    """Write a shard of members in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:", **options) as tar:
        for name, raw in members:
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return path


def captioned(path: Path, count: int, first: int = 0) -> Path:
    """Write a shard of images with captions "0", "1", ..."""
    members = []
    for k in range(first, first + count):
        members += [(f"{k:04d}.png", image_file()), (f"{k:04d}.txt", str(k).encode())]
    return write_tar(path, members)


def texts(path: Path, said: list[str]) -> Path:
    """Write a shard of plain texts."""
    return write_tar(path, [(f"{k:04d}.txt", text.encode()) for k, text in enumerate(said)])
