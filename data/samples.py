"""Samples of shards, in any order: what they say, and their images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from janus_edge.data.content import Content, read_content
from janus_edge.data.errors import BrokenSample, DataError
from janus_edge.data.index import IMAGE, JSON, MOST_BYTES, TXT, index_of
from janus_edge.runtime.errors import ImageError
from janus_edge.runtime.image import decode_noted
from janus_edge.runtime.image_bytes import MAX_BYTES
from janus_edge.runtime.reading import open_regular

MOST_TEXT = 2**24  # bytes of a text or JSON
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True, kw_only=True)
class Sample(Content):
    """What a sample says, and which one it is.

    Attributes:
        key: Its key, unique in its shard.
        shard: The shard's path.
        has_image: Whether there is an image.
    """

    key: str
    shard: str
    has_image: bool

    @property
    def name(self) -> str:
        """Return what messages call it."""
        return f"{self.shard}/{self.key}"


class Shards:
    """Samples of several shards, numbered from 0 in the shards' order.

    Attributes:
        paths: The shards.
        damage: What is wrong with shards that are cut or damaged, by path. Their whole samples are
            read.
        ends: Where each shard's samples end among all.
        digest: A hash of the shards' names, sizes, tables of content and content. A copy of the
            data elsewhere has the same.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Read the shards' tables of content.

        Args:
            paths: Shards, or folders with ``*.tar``, which are taken in the order of their names.

        Raises:
            DataError: A path is missing, there are no shards or no samples, or a shard is
                compressed.
        """
        self.paths = [shard for path in paths for shard in shards_of(path)]
        self._indexes = [index_of(path) for path in self.paths]
        self._stamps = [_stamp(path) for path in self.paths]
        self.ends = np.cumsum([len(index) for index in self._indexes])
        self.damage = {
            str(path): index.damage
            for path, index in zip(self.paths, self._indexes, strict=True)
            if index.damage
        }
        if len(self) == 0:
            where = str(paths[0]) if paths else "no path"
            name, damage = next(iter(self.damage.items()), (where, "no samples in it"))
            raise DataError(f"{name}: {damage}; give WebDataset shards with samples")
        self.digest = self._digest()

    def __len__(self) -> int:
        """Return the number of samples, broken ones included."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def name(self, i: int) -> str:
        """Return a sample's name: its shard and key."""
        shard, at = self._find(i)
        return f"{self.paths[shard]}/{self._indexes[shard].key(at)}"

    def sample(self, i: int) -> Sample:
        """Return what a sample says.

        Raises:
            BrokenSample: It says nothing, or cannot be read.
        """
        shard, at = self._find(i)
        index = self._indexes[shard]
        has_image = int(index.members_N[at, IMAGE, 0]) >= 0
        try:
            if at in index.problems:
                raise ValueError(index.problems[at])
            content = self._content(shard, at, has_image)
        except ValueError as error:
            raise BrokenSample(self.name(i), str(error)) from None
        return Sample(
            key=index.key(at),
            shard=str(self.paths[shard]),
            captions=content.captions,
            turns=content.turns,
            text=content.text,
            boxes=content.boxes,
            has_image=has_image,
        )

    def image_bytes(self, i: int) -> bytes:
        """Return a sample's image as the file that it was.

        Raises:
            BrokenSample: There is no image, or it cannot be read.
        """
        shard, at = self._find(i)
        try:
            if at in self._indexes[shard].problems:
                raise ValueError(self._indexes[shard].problems[at])
            raw = self._read(shard, at, IMAGE, MAX_BYTES)
            if raw is None:
                raise ValueError("no image")
        except ValueError as error:
            raise BrokenSample(self.name(i), str(error)) from None
        return raw

    def image(self, i: int) -> np.ndarray:
        """Return a sample's image (H, W, 3) uint8: upright, transparency over white.

        Raises:
            BrokenSample: There is no image, or it is cut, damaged or too large.
        """
        raw = self.image_bytes(i)
        try:
            return decoded(raw)
        except ValueError as error:
            raise BrokenSample(self.name(i), str(error)) from None

    def _content(self, shard: int, at: int, has_image: bool) -> Content:
        document = self._read(shard, at, JSON, MOST_TEXT)
        return read_content(document, self._read(shard, at, TXT, MOST_TEXT), has_image)

    def _find(self, i: int) -> tuple[int, int]:
        """Return a sample's shard, and its number there."""
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        shard = int(np.searchsorted(self.ends, i, "right"))
        return shard, i - (int(self.ends[shard - 1]) if shard else 0)

    def _read(self, shard: int, at: int, kind: int, most: int) -> bytes | None:
        """Return a member, None if there is none; raise ValueError if it cannot be read."""
        offset, size = map(int, self._indexes[shard].members_N[at, kind])
        if offset < 0:
            return None
        if size > most:
            raise ValueError(f"{size} bytes, and {most} are the most")
        path = self.paths[shard]
        try:
            with os.fdopen(open_regular(path, MOST_BYTES), "rb") as file:
                if _stamp(file.fileno()) != self._stamps[shard]:
                    raise ValueError("the shard has changed since it was opened")
                file.seek(offset)
                raw = file.read(size)
        except OSError as error:
            raise ValueError(f"the shard cannot be read: {error.strerror}") from None
        if len(raw) < size:
            raise ValueError("the shard ends in its middle")
        return raw

    def _digest(self) -> str:
        found = hashlib.sha256()
        for path, index, stamp in zip(self.paths, self._indexes, self._stamps, strict=True):
            name = os.fsencode(path.name)
            found.update(b"%d:%s:%d:" % (len(name), name, stamp[0]) + index.digest())
        return found.hexdigest()


def decoded(raw: bytes) -> np.ndarray:
    """Return an image file's pixels (H, W, 3) uint8.

    Raises:
        ValueError: It is cut, damaged, too large or not an image. The message is the reason.
    """
    try:
        image, note = decode_noted(raw, "image")
    except ImageError as error:
        raise ValueError(str(error).removeprefix("image: ").partition(";")[0]) from None
    if note:
        raise ValueError(f"cut short: {note}")
    return np.asarray(image)


def _stamp(file: Path | int) -> tuple[int, int]:
    """Return what changes when a shard does: size and time."""
    found = os.fstat(file) if isinstance(file, int) else file.stat()
    return found.st_size, found.st_mtime_ns


def shards_of(path: Path) -> list[Path]:
    """Return a shard, or those of a folder by name.

    Raises:
        DataError: There are none, or they are compressed.
    """
    try:
        if not path.is_dir():
            if not path.exists():
                raise DataError(f"{path}: no such shard or folder; check the path")
            return [path]
        names = sorted(each.name for each in path.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; check the path") from None
    packed = [name for name in names if name.endswith(_PACKED)]
    if packed:
        raise DataError(
            f"{path / packed[0]}: a compressed tar, of which no sample can be read by itself; "
            "unpack it to a .tar"
        )
    found = [path / name for name in names if name.endswith(".tar")]
    if not found:
        raise DataError(f"{path}: no shards (*.tar) in it; make them with janus-edge data build")
    return found
