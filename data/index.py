"""Where the samples of a shard lie: its tar headers are read once, the offsets are kept.

WebDataset streams shards. Training takes any sample at any time, because the number of a step alone
says what is in it. The index of a shard is a file in the user's folder, made again when the shard
has changed; nothing is written beside the shard.

Shapes: N samples.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from janus_edge.data.errors import DataError
from janus_edge.runtime.files import atomic_write
from janus_edge.runtime.hash_cache import stamp_of
from janus_edge.runtime.notes import home_folder
from janus_edge.runtime.reading import open_regular

IMAGES = ("png", "jpg", "jpeg", "webp")
IMAGE, JSON, TXT = range(3)  # the kinds of members that are read
MOST_BYTES = 2**42  # of a shard
_KIND_OF = {**dict.fromkeys(IMAGES, IMAGE), "json": JSON, "txt": TXT}
_KEY_AND_EXT = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)  # as webdataset parts names
_META = re.compile(r"__[^/]*__($|/)")  # names that webdataset skips
_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
_VERSION = 2
_EDGE = 4096  # bytes at both ends of a member that its index stands for
_BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """The samples of a shard.

    Attributes:
        keys: All keys one after the other, UTF-8.
        key_ends_N: Where each key ends in ``keys``.
        members_N: Offset and size of the image, the JSON and the text (N, 3, 2); -1 for none.
        problems: What is wrong with a sample, by its number, as far as the headers show it.
        damage: What is wrong with the shard itself; "" if nothing is.
        content: A SHA-256 of the first and the last bytes of all members, 4096 each. An image
            format's checksums and coded pixels reach its end, so other content shows.
    """

    keys: bytes
    key_ends_N: np.ndarray
    members_N: np.ndarray
    problems: dict[int, str]
    damage: str
    content: str

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.key_ends_N)

    def key(self, i: int) -> str:
        """Return the key of a sample; bytes that are not UTF-8 are surrogates."""
        start = int(self.key_ends_N[i - 1]) if i else 0
        return self.keys[start : int(self.key_ends_N[i])].decode("utf-8", "surrogateescape")

    def digest(self) -> bytes:
        """Return a SHA-256 of keys, offsets, sizes and content."""
        found = hashlib.sha256(self.content.encode() + self.keys)
        for array in (self.key_ends_N, self.members_N):
            found.update(array.astype("<i8").tobytes())
        return found.digest()


def index_of(path: Path) -> ShardIndex:
    """Return a shard's index: the one that is kept, or a new one, which is kept then.

    Raises:
        DataError: The shard cannot be read, or is compressed.
    """
    kept = _kept_at(path)
    stamp = stamp_of(path)  # before reading: a change meanwhile shows
    if stamp is not None and (found := _load(kept, stamp)) is not None:
        return found
    found = read_index(path)
    if stamp is not None:
        _keep(kept, stamp, found)
    return found


def read_index(path: Path) -> ShardIndex:
    """Return the index of a shard from its headers.

    Raises:
        DataError: The shard cannot be read, or is compressed.
    """
    try:
        with os.fdopen(open_regular(path, MOST_BYTES), "rb") as file:
            head = file.read(6)
            for magic, program in _COMPRESSED.items():
                if head.startswith(magic):
                    raise DataError(
                        f"{path}: a compressed tar, of which no sample can be read by itself; "
                        f"unpack it with {program}"
                    )
            file.seek(0)
            return _Scan(file).index()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give a shard that can be read") from None


@dataclass
class _Scan:
    """One pass over a tar's headers."""

    file: io.BufferedReader
    keys: list[bytes] = field(default_factory=list)
    members: list[list[list[int]]] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)
    seen: set[bytes] = field(default_factory=set)
    content: Any = field(default_factory=hashlib.sha256)

    def index(self) -> ShardIndex:
        damage = self._scan()
        lengths = np.array([len(key) for key in self.keys], np.int64)
        return ShardIndex(
            keys=b"".join(self.keys),
            key_ends_N=np.cumsum(lengths),
            members_N=np.array(self.members, np.int64).reshape(-1, 3, 2),
            problems=self.problems,
            damage=damage,
            content=self.content.hexdigest(),
        )

    def _scan(self) -> str:
        """Read all headers; return what is wrong with the tar, "" if nothing is."""
        size = os.fstat(self.file.fileno()).st_size
        name, end = "", -1
        try:
            tar = tarfile.open(  # noqa: SIM115 # closing it changes nothing
                fileobj=self.file, mode="r:", encoding="utf-8", errors="surrogateescape"
            )
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined] # it would keep every header
                # It would read in a circle, or has no number that an index can hold.
                if info.offset_data <= end or not 0 <= info.size < 2**63 - info.offset_data:
                    return f"a damaged header behind {name or 'its beginning'}"
                name, end = info.name, info.offset_data
                self._add(info)
                if info.isreg() and info.offset_data + info.size > size:
                    if self.keys:
                        self.problems[len(self.keys) - 1] = "the shard ends in its middle"
                    return f"cut: it ends in the middle of {name}"
        except (tarfile.TarError, ValueError, EOFError, OverflowError, RecursionError) as error:
            return f"damaged behind {name or 'its beginning'}: {error}"
        self.file.seek(tar.offset)
        if (block := self.file.read(_BLOCK)) != bytes(_BLOCK):
            what = "cut" if len(block) < _BLOCK else "damaged"
            return f"{what} behind {name}: a tar ends with empty blocks"
        return ""

    def _add(self, info: tarfile.TarInfo) -> None:
        """Add a member to the sample of its key: the last one, as members lie beside each other."""
        parts = _KEY_AND_EXT.fullmatch(info.name)
        if not info.isreg() or parts is None or _META.match(info.name):
            return
        key, kind = parts[1].encode("utf-8", "surrogateescape"), _KIND_OF.get(parts[2].lower())
        if not self.keys or self.keys[-1] != key:
            self.keys.append(key)
            self.members.append([[-1, -1], [-1, -1], [-1, -1]])
            if key in self.seen:
                self.problems[len(self.keys) - 1] = "an earlier sample of the shard has its key"
            self.seen.add(key)
        if kind is None:
            return
        if self.members[-1][kind][0] >= 0:
            self.problems[len(self.keys) - 1] = f"two members of a kind, the second {info.name}"
        elif info.sparse is not None:
            self.problems[len(self.keys) - 1] = "a sparse member"
        self.members[-1][kind] = [info.offset_data, info.size]
        edge = min(info.size, _EDGE)
        for start in (info.offset_data, info.offset_data + info.size - edge):
            self.file.seek(start)
            self.content.update(self.file.read(edge))


def _kept_at(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    return home_folder() / "shards" / f"{name}.npz"


def _load(kept: Path, stamp: list[int]) -> ShardIndex | None:
    """Return a kept index, None if it is missing, damaged, or of another state of the shard."""
    try:
        with kept.open("rb") as file, np.load(file, allow_pickle=False) as found:
            head = json.loads(found["head"].tobytes())
            if head["version"] != _VERSION or head["stamp"] != stamp:
                return None
            return ShardIndex(
                keys=found["keys"].tobytes(),
                key_ends_N=found["key_ends_N"],
                members_N=found["members_N"],
                problems={int(i): why for i, why in head["problems"].items()},
                damage=head["damage"],
                content=head["content"],
            )
    except Exception:  # a damaged zip or array raises many kinds of errors; it is made again
        return None


def _keep(kept: Path, stamp: list[int], index: ShardIndex) -> None:
    """Keep an index, or do nothing if the folder cannot be written."""
    head = {"version": _VERSION, "stamp": stamp, "damage": index.damage, "content": index.content}
    raw = json.dumps(head | {"problems": index.problems}).encode()
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(kept) as part:
            np.savez(
                part,
                head=np.frombuffer(raw, np.uint8),
                keys=np.frombuffer(index.keys, np.uint8),
                key_ends_N=index.key_ends_N,
                members_N=index.members_N,
            )
