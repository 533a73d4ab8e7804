"""Show the first samples of shards: ``janus-edge data show``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from janus_edge.data.check import opened
from janus_edge.data.errors import BrokenSample, DataError
from janus_edge.data.samples import Sample, Shards
from janus_edge.data.source import CLASS_PROMPTS
from janus_edge.data.views import cropped, padded
from janus_edge.runtime.image_file import format_of, save_image
from janus_edge.runtime.output import check_writable

SIDE = 192  # px of an image on the sheet
MOST_SHOWN = 1000  # images on a sheet
_COLUMNS = 8


def show_data(path: Path, number: int, output: Path | None, say: Callable[[str], None]) -> None:
    """Say what the first samples of each role are; draw their images on a sheet.

    Args:
        path: A shard, a folder of shards, a folder of roles, or a TOML file.
        number: Samples per role.
        output: The sheet, None for none.
        say: Called with a line per sample.

    Raises:
        DataError: There is nothing to show.
        OutputError: The sheet cannot be written.
        OptionError: The sheet's format is unknown.
    """
    if output is not None:
        check_writable(output)
        format_of(output)
    images: list[np.ndarray] = []
    lines: list[str] = []
    for role, shards, read in opened(path):
        for i in range(min(number, len(shards))):
            try:
                sample = read(i)
                view = _view(role, shards, i) if sample.has_image else None
            except BrokenSample as error:
                lines.append(f"{error.name}: broken: {error.reason}")
                continue
            lines.append(f"{sample.name}: {sample.kind}: {_said(sample)}")
            if output is not None and view is not None and len(images) < MOST_SHOWN:
                images.append(view)
    if output is not None:
        if not images:
            raise DataError(f"{path}: no image to draw on a sheet; leave out -o")
        save_image(_grid(images), output, {})
        lines.append(f"{output}: {len(images)} image{'s' * (len(images) != 1)}")
    for line in lines:
        say(line)


def _view(role: str, shards: Shards, i: int) -> np.ndarray:
    view = cropped if role in ("generation", CLASS_PROMPTS) else padded
    return view(shards.image(i), SIDE)


def _said(sample: Sample) -> str:
    turns = " ".join(f"{turn.user} → {turn.assistant}" for turn in sample.turns)
    return turns or " | ".join(sample.captions) or sample.text or ""


def _grid(images: list[np.ndarray]) -> np.ndarray:
    """Return images of one size side by side, white where there is none."""
    columns = min(_COLUMNS, len(images))
    empty = np.full_like(images[0], 255)
    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    filled = [row + [empty] * (columns - len(row)) for row in rows]
    return np.concatenate([np.concatenate(row, axis=1) for row in filled])
