"""Read every sample of shards or of a data folder: ``janus-edge data check``."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from janus_edge.data.errors import BrokenSample
from janus_edge.data.samples import Sample, Shards
from janus_edge.data.source import open_source

QUANTILES = (0, 0.5, 0.9, 0.99, 1)
_REPORT_S = 10  # seconds between two reports
Report = Callable[[str], None]
Read = Callable[[int], Sample]


@dataclass
class RoleCount:
    """What the shards of a role hold.

    Attributes:
        num_samples: All samples, broken ones included.
        num_shards: Shards.
        kinds: Whole samples by kind: caption, conversation, text.
        num_boxed: Whole samples with labelled boxes.
        smallest: Width and height of the image with the fewest pixels, None without images.
        largest: The same for the most pixels.
        lengths: Characters of each whole sample's texts together.
        broken: What is wrong, by the sample's or shard's name.
    """

    num_samples: int
    num_shards: int
    kinds: Counter[str] = field(default_factory=Counter)
    num_boxed: int = 0
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    lengths: array[int] = field(default_factory=lambda: array("Q"))
    broken: dict[str, str] = field(default_factory=dict)

    def quantiles(self) -> dict[str, int]:
        """Return quantiles of the lengths in characters, by their names in percent."""
        if not self.lengths:
            return {}
        found = np.quantile(np.frombuffer(self.lengths, np.uint64), QUANTILES, method="nearest")
        return {f"{100 * q:g}%": int(each) for q, each in zip(QUANTILES, found, strict=True)}

    def document(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        return {
            "samples": self.num_samples,
            "shards": self.num_shards,
            "kinds": dict(sorted(self.kinds.items())),
            "with_boxes": self.num_boxed,
            "smallest_image": self.smallest,
            "largest_image": self.largest,
            "characters": self.quantiles(),
            "broken": self.broken,
        }


def check_data(path: Path, report: Report = lambda line: None) -> dict[str, RoleCount]:
    """Return what each role holds; the role of plain shards is "shards".

    Every text is read and every image decoded.

    Args:
        path: A shard, a folder of shards, a folder of roles, or a TOML file.
        report: Called with lines that say how far it is.

    Raises:
        DataError: There is nothing to check.
    """
    return {name: _count(name, shards, read, report) for name, shards, read in opened(path)}


def opened(path: Path) -> Iterator[tuple[str, Shards, Read]]:
    """Yield each role's name, shards, and the function that reads a sample of it.

    Raises:
        DataError: There is nothing to read.
    """
    is_source = path.suffix == ".toml" or (path.is_dir() and not any(path.glob("*.tar*")))
    if not is_source:
        shards = Shards([path])
        yield "shards", shards, shards.sample
        return
    for name, role in open_source(path).roles.items():
        yield name, role.shards, role.sample


def _count(name: str, shards: Shards, read: Read, report: Report) -> RoleCount:
    found = RoleCount(len(shards), len(shards.paths))
    found.broken |= shards.damage
    said = time.monotonic()
    for i in range(len(shards)):
        try:
            sample = read(i)
            size = shards.image(i).shape[1::-1] if sample.has_image else None
        except BrokenSample as error:
            found.broken[error.name] = error.reason
            continue
        _add(found, sample, size)
        if time.monotonic() - said > _REPORT_S:
            said = time.monotonic()
            report(f"{name}: {i + 1} of {len(shards)} samples, {len(found.broken)} broken")
    return found


def _add(found: RoleCount, sample: Sample, size: tuple[int, ...] | None) -> None:
    found.kinds[sample.kind] += 1
    found.num_boxed += bool(sample.boxes)
    texts = [*sample.captions, *(t for turn in sample.turns for t in (turn.user, turn.assistant))]
    found.lengths.append(sum(map(len, texts)) + len(sample.text or ""))
    if size is not None:
        width, height = size
        pair = (width, height)
        if found.smallest is None or width * height < found.smallest[0] * found.smallest[1]:
            found.smallest = pair
        if found.largest is None or width * height > found.largest[0] * found.largest[1]:
            found.largest = pair
