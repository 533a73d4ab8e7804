"""Build shards of a role from a folder, a CSV or a JSONL file: ``janus-edge data build``."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from janus_edge.data.content import Content
from janus_edge.data.errors import BrokenSample, DataError
from janus_edge.data.index import IMAGES
from janus_edge.data.place import MARKER, SKIPPED, placed
from janus_edge.data.rows import Row, rows_of
from janus_edge.data.samples import MOST_TEXT, decoded
from janus_edge.data.shard_writer import ShardWriter
from janus_edge.data.source import CLASS_PROMPTS, ROLES, misfit
from janus_edge.runtime.errors import ImageError, OptionError
from janus_edge.runtime.image_bytes import read_bytes

SAMPLES_PER_SHARD = 10_000
_REPORT_S = 10  # seconds between two reports
Report = Callable[[str], None]


@dataclass
class Built:
    """What a build made.

    Attributes:
        folder: The role's folder.
        role: The role.
        num_samples: Samples in the shards.
        shards: Name and size of each shard, bytes.
        skipped: Broken rows: name and reason.
        num_others: Whole rows that serve in other roles alone.
    """

    folder: Path
    role: str
    num_samples: int = 0
    shards: dict[str, int] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    num_others: int = 0


def build_shards(
    source: Path,
    out: Path,
    *,
    role: str | None = None,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    replace: bool = False,
    report: Report = lambda line: None,
) -> Built:
    """Write the rows of a source as shards into ``out/ROLE``, which appears whole or not at all.

    Images keep their bytes. Each is decoded once; broken rows are skipped and listed in
    ``skipped.jsonl`` beside the shards.

    Args:
        source: A folder of images and texts, or a CSV, JSONL or JSON file.
        out: The folder of roles, made if it is missing.
        role: understanding, text, generation or class_prompts; None for that which most rows
            serve in.
        samples_per_shard: The most samples of a shard.
        replace: Whether earlier shards of ours there are replaced.
        report: Called with lines that say how far it is.

    Raises:
        DataError: The source cannot be read, more than half of it is broken, or none serves.
        OptionError: An option has no such value.
        OutputError: The folder is there, or cannot be written.
    """
    if role is not None and role not in (known := (*ROLES, CLASS_PROMPTS)):
        raise OptionError(f"role {role}: give one of {', '.join(known)}")
    if samples_per_shard < 1:
        raise OptionError(f"samples_per_shard {samples_per_shard}: give 1 or more")
    built = Built(out / (chosen := role or _most_served(source)), chosen)
    with placed(built.folder, replace) as part:
        _fill(part, built, rows_of(source), samples_per_shard, report)
        _check_result(source, built)
        _write_lists(part, built)
    return built


def _most_served(source: Path) -> str:
    """Return the role that most rows of a source serve in; raise DataError if no row is whole."""
    served: Counter[str] = Counter()
    first: list[BrokenSample] = []
    for row in rows_of(source):
        if isinstance(row, Row):
            served[_role_of(row.content, row.image is not None)] += 1
        elif not first:
            first.append(row)
    if not served:
        raise _refusal(source, "it has no whole row", first)
    return served.most_common(1)[0][0]


def _role_of(content: Content, has_image: bool) -> str:
    return "text" if not has_image else "understanding" if content.turns else "generation"


def _fill(
    part: Path,
    built: Built,
    rows: Iterator[Row | BrokenSample],
    samples_per_shard: int,
    report: Report,
) -> None:
    """Write the shards; note in ``built`` what was written and skipped."""
    said = time.monotonic()
    with ShardWriter(part, samples_per_shard) as writer:
        for number, row in enumerate(rows):
            try:
                if isinstance(row, BrokenSample):
                    raise row
                if misfit(built.role, row.content, row.image is not None):
                    built.num_others += 1
                    continue
                writer.write(f"{number:09d}", _members(row))
                built.num_samples += 1
            except BrokenSample as error:
                built.skipped.append((error.name, error.reason))
            if time.monotonic() - said > _REPORT_S:
                said = time.monotonic()
                report(f"{number + 1} rows, {len(built.skipped)} broken")
    built.shards = writer.sizes


def _members(row: Row) -> dict[str, bytes]:
    """Return a row's members by their extension; raise BrokenSample if its image is broken."""
    document = row.content.document() | {"source": row.name}
    text = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
    if len(text) > MOST_TEXT:
        raise BrokenSample(row.name, f"{len(text)} bytes of text, and {MOST_TEXT} are the most")
    members = {"json": text}
    if row.image is not None:
        kind = row.image.suffix.lower().removeprefix(".")
        if kind not in IMAGES:
            raise BrokenSample(row.name, f"{row.image.name}: no .png, .jpg, .jpeg or .webp file")
        try:
            members[kind] = read_bytes(row.image)
            decoded(members[kind])
        except ImageError as error:
            raise BrokenSample(row.name, str(error).partition(";")[0]) from None
        except ValueError as error:
            raise BrokenSample(row.name, f"{row.image}: {error}") from None
    return members


def _check_result(source: Path, built: Built) -> None:
    """Raise DataError if more than half is broken, or nothing serves."""
    broken = len(built.skipped)
    if 2 * broken > broken + built.num_samples + built.num_others:
        of = broken + built.num_samples + built.num_others
        raise _refusal(source, f"{broken} of {of} rows are broken", built.skipped)
    if not built.num_samples:
        why = f"{built.num_others} rows serve in other roles" if built.num_others else "no rows"
        raise DataError(f"{source}: none serves for {built.role}: {why}; name another role")


def _refusal(source: Path, what: str, broken: list[Any]) -> DataError:
    """Return the error of a source that is not built, with its first broken row."""
    pairs = [(e.name, e.reason) if isinstance(e, BrokenSample) else e for e in broken]
    first = f", the first {pairs[0][0]}: {pairs[0][1]}" if pairs else ""
    return DataError(f"{source}: {what}{first}; nothing was written")


def write_marker(part: Path, role: str, num_samples: int, shards: Mapping[str, int]) -> None:
    """Write what a folder of shards holds. Raises OSError."""
    words = {"by": "janus-edge", "role": role, "samples": num_samples, "shards": shards}
    (part / MARKER).write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")


def _write_lists(part: Path, built: Built) -> None:
    write_marker(part, built.role, built.num_samples, built.shards)
    if built.skipped:
        lines = [json.dumps({"name": name, "reason": why}) for name, why in built.skipped]
        (part / SKIPPED).write_text("\n".join(lines) + "\n", encoding="utf-8")
