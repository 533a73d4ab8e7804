"""Write samples to shards by WebDataset's writer."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

MOST_SHARD = 10**9  # bytes of content


class _Sink:
    """A file for webdataset's writer, which writes once more when it is collected."""

    def __init__(self, path: Path) -> None:
        self.file: IO[bytes] | None = path.open("wb")

    def write(self, raw: bytes) -> int:
        return self.file.write(raw) if self.file else len(raw)

    def close(self) -> None:
        file, self.file = self.file, None
        if file:
            file.close()


class ShardWriter:
    """Writes shards ``000000.tar``, ``000001.tar``, ... into a folder.

    Attributes:
        sizes: Name and size of each shard that is finished, bytes.
    """

    def __init__(self, folder: Path, samples_per_shard: int) -> None:
        """Take the folder, and the most samples of a shard."""
        from webdataset.writer import TarWriter  # it imports torch

        self.folder, self.most, self.make = folder, samples_per_shard, TarWriter
        self.sizes: dict[str, int] = {}
        self.sink: _Sink | None = None
        self.tar: Any = None
        self.count = self.size = 0

    def __enter__(self) -> ShardWriter:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the last shard, or drop it after an error."""
        try:
            if error is None:
                self.end()
        finally:
            if self.sink is not None:
                with suppress(OSError):
                    self.sink.close()

    def write(self, key: str, members: dict[str, bytes]) -> None:
        """Write a sample: its key, and its members by their extension. Raises OSError."""
        size = sum(map(len, members.values()))
        if self.count and (self.count >= self.most or self.size + size > MOST_SHARD):
            self.end()
        if self.sink is None:
            self.sink = _Sink(self.folder / f"{len(self.sizes):06d}.tar")
            # A fixed time: the same rows make the same bytes.
            self.tar = self.make(self.sink, encoder=False, mtime=0.0, user="", group="")
        self.tar.write({"__key__": key, **members})
        self.count, self.size = self.count + 1, self.size + size

    def end(self) -> None:
        """Finish the shard that is being written."""
        if self.sink is not None:
            self.tar.close()
            self.sink.close()
            name = f"{len(self.sizes):06d}.tar"
            self.sizes[name] = (self.folder / name).stat().st_size
            self.sink, self.count, self.size = None, 0, 0
