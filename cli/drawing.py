"""What ``generate`` does with a request: write images to files, and print a line for each."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.console import Console

from janus_edge.cli.image_names import names_of
from janus_edge.cli.inline_images import sharpening
from janus_edge.cli.json_output import print_json
from janus_edge.cli.terminal import drawing_bar, one_line
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.drawn import is_approximate, texts_of
from janus_edge.runtime.events import Event, Finished, Image, Preview, Progress
from janus_edge.runtime.image_file import check_fit, encode, format_of, save_image
from janus_edge.runtime.output import (
    STANDARD_OUTPUT,
    check_folder,
    check_writable,
    is_pipe,
    is_standard_output,
    is_stream,
    make_folder,
    write_new,
    write_output,
)
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session
from janus_edge.runtime.stop import keeping

DEFAULT = Path("out.png")  # never overwritten, unlike a file that the user names
_Advance = Callable[[int, int, str], None]  # show what is done, of how much, in which unit
_Write = Callable[[int, bytes], Path]  # write an image's file, by its index; return the name


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What ``generate`` draws, and where it goes.

    Attributes:
        requests: What to draw, one after the other.
        model: Folder or name of the bundle; None for the default.
        output: File to write, with a number added for several images, or a template
            (``cli/image_names.py``); None for ``DEFAULT``, with a number added if it exists.
        previews: Folder for previews; None for none.
        threads: Threads of the backend; 0 lets it choose.
        device: Device to run on.
        json: Whether to print one JSON document instead of lines.
        shown: How the terminal shows the images (``cli/inline_images.py``); "" for not at all.
        is_grid: Whether all images go to one file, side by side.
    """

    requests: tuple[ImageRequest, ...]
    model: str | None
    output: Path | None
    previews: Path | None
    threads: int
    device: str
    json: bool
    shown: str = ""
    is_grid: bool = False

    @property
    def seeds(self) -> list[int]:
        """Seed of each image, in order."""
        return [
            request.seed + i
            for request in self.requests
            for _ in request.prompts
            for i in range(request.num_images)
        ]


@dataclass
class _Drawn:
    """What has been drawn: lines, times, and the images of a grid."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    images: list[np.ndarray] = field(default_factory=list)


def draw(drawing: Drawing) -> None:
    """Draw images, write the files and print a line for each.

    Args:
        drawing: What to draw, and where it goes.

    Raises:
        BadParameter: The output cannot take the images.
        JanusEdgeError: A request cannot be run, or a file cannot be written.
    """
    total, output = len(drawing.seeds), drawing.output
    write, kind = _check_output(drawing), format_of(output or DEFAULT)
    session = Session(
        open_bundle(drawing.model), num_threads=drawing.threads, device=drawing.device
    )
    events = [session.generate_image(request) for request in drawing.requests]  # all are checked
    for request in drawing.requests:
        _check_texts(session, request, kind)
    if drawing.previews is not None:
        make_folder(drawing.previews)
    drawn = _Drawn()
    try:
        with keeping(lambda: _kept(drawn, total)), _progress(drawing.shown) as (advance, show):
            for request, each in zip(drawing.requests, events, strict=True):
                _draw_one(session, drawing, request, each, drawn, write, advance, show)
        if drawing.is_grid:
            _write_grid(session, drawing, drawn, write, kind)
    finally:  # after the bar is gone, which would overwrite the lines
        if not drawing.json:
            _list(drawn.lines, output)
    if drawing.json:
        print_json(_document(session, drawing, drawn))
    else:
        took = ", ".join(f"{name} {ms:.0f}" for name, ms in drawn.timings.items())
        all_settings = [session.image_settings(request) for request in drawing.requests]
        how = "approximate; " if any(map(is_approximate, all_settings)) else ""
        typer.echo(f"{how}ms: {took}", err=True)


def _draw_one(
    session: Session,
    drawing: Drawing,
    request: ImageRequest,
    events: Iterator[Event],
    drawn: _Drawn,
    write: _Write,
    advance: _Advance,
    show: Callable[[np.ndarray], None],
) -> None:
    """Draw the images of a request; write and note each."""
    first, kind = len(drawn.lines), format_of(drawing.output or DEFAULT)
    for event in events:
        match event:
            case Progress(done=done, total=of, unit=unit):
                advance(done, of, unit)
            case Preview(index=index, pixels=pixels, done=done):
                show(pixels)
                if drawing.previews:
                    save_image(pixels, drawing.previews / f"{first + index:03}-{done:04}.png", {})
            case Image(pixels=pixels, index=index, seed=seed):
                show(pixels)
                texts = texts_of(session, request, index, seed)
                line: dict[str, Any] = {"prompt": texts["prompt"], "seed": seed}
                if drawing.is_grid:
                    drawn.images.append(pixels)
                else:
                    line = {"file": write(first + index, encode(pixels, kind, texts))} | line
                drawn.lines.append(line)
            case Finished(timings_ms=timings):
                for part, ms in timings.items():
                    drawn.timings[part] = drawn.timings.get(part, 0.0) + ms


def _write_grid(
    session: Session, drawing: Drawing, drawn: _Drawn, write: _Write, kind: str
) -> None:
    """Write all images side by side, and note the file with each."""
    columns = math.ceil(len(drawn.images) ** 0.5)
    empty = np.full_like(drawn.images[0], 255)
    images = [*drawn.images, *[empty] * (-len(drawn.images) % columns)]
    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    first = texts_of(session, drawing.requests[0], 0, drawing.requests[0].seed)
    texts = {name: first[name] for name in ("Software", "model", "model_sha256")}
    texts["images"] = json.dumps([dict(each) for each in drawn.lines], ensure_ascii=False)
    path = write(0, encode(sheet, kind, texts))
    drawn.lines[:] = [{"file": path} | each for each in drawn.lines]


@contextmanager
def _progress(shown: str) -> Iterator[tuple[_Advance, Callable[[np.ndarray], None]]]:
    """Yield what shows progress and what shows an image: both in place, or a bar alone."""
    if not shown:
        with drawing_bar("drawing") as advance:
            yield advance, lambda pixels_HWC: None
        return
    with sharpening(Console(), shown) as show:
        yield (
            lambda done, total, unit: show(None, f"{done}/{total} {unit}"),
            lambda pixels_HWC: show(pixels_HWC, None),
        )


def _check_texts(session: Session, request: ImageRequest, kind: str) -> None:
    """Refuse prompts that an image's file of this kind cannot hold."""
    for index in range(0, len(request.prompts) * request.num_images, request.num_images):
        check_fit(kind, texts_of(session, request, index, 0))


def _check_output(drawing: Drawing) -> _Write:
    """Refuse now what cannot be written later; return the function that writes an image."""
    output, seeds = drawing.output, drawing.seeds[:1] if drawing.is_grid else drawing.seeds
    total = len(seeds)
    if output is None:
        check_folder(DEFAULT.parent)
        first = None if total == 1 else 1
        return lambda index, content: write_new(DEFAULT, content, first=first)
    check_writable(output)
    if is_standard_output(output):
        if drawing.json:
            raise typer.BadParameter("--json and -o - both want standard output; leave out one")
        if sys.stdout.isatty():
            raise typer.BadParameter("standard output is a terminal; send it to a file or program")
    if is_pipe(output) and total > 1:
        raise typer.BadParameter(f"{output}: a pipe takes one image; draw one, or use -o -")
    names = [output] * total if is_stream(output) else names_of(output, seeds)
    for name in names:
        check_writable(name)

    def write(index: int, content: bytes) -> Path:
        write_output(names[index], content)
        return names[index]

    return write


def _list(drawn: list[dict[str, Any]], output: Path | None) -> None:
    """Print file, seed and prompt of each image.

    The lines go to standard error if the images go to standard output.
    """
    beside = output is not None and is_standard_output(output)
    for each in (line for line in drawn if "file" in line):  # a grid may not have been written
        name = STANDARD_OUTPUT if beside else each["file"]
        typer.echo(f"{name}\tseed {each['seed']}\t{one_line(each['prompt'])}", err=beside)


def _kept(drawn: _Drawn, total: int) -> str:
    """Return a line on what an interrupted command leaves."""
    written = [line for line in drawn.lines if "file" in line]
    return f"{len(written)} of {total} images kept" if written else "no image was finished"


def _document(session: Session, drawing: Drawing, drawn: _Drawn) -> dict[str, Any]:
    """Return the document of ``--json``; of several requests it has the settings of each."""
    settings = [session.image_settings(request) for request in drawing.requests]
    each = [dataclasses.asdict(one) for one in settings]
    return {
        "bundle": session.bundle.manifest.name,
        "bundle_sha256": session.bundle.sha256,
        "settings": each[0] if len(each) == 1 else each,
        "approximate": any(map(is_approximate, settings)),
        "images": drawn.lines,
        "timings_ms": drawn.timings,
    }
