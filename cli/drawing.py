"""What ``generate`` does with a request: write images to files, and print a line for each."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.console import Console

from janus_edge.cli.inline_images import sharpening
from janus_edge.cli.json_output import print_json
from janus_edge.cli.terminal import drawing_bar, one_line
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.drawn import is_approximate, texts_of
from janus_edge.runtime.events import Finished, Image, Preview, Progress
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


def draw(
    request: ImageRequest,
    model: str | None,
    output: Path | None,
    previews: Path | None,
    threads: int,
    device: str,
    json: bool,
    shown: str = "",
) -> None:
    """Draw images, write the files and print a line for each.

    Args:
        request: What to draw.
        model: Folder or name of the bundle; None for the default.
        output: File to write, with a number added for several images; None for ``DEFAULT``, with a
            number added if it exists.
        previews: Folder for previews; None for none.
        threads: Threads of the backend; 0 lets it choose.
        device: Device to run on.
        json: Whether to print one JSON document instead of lines.
        shown: How the terminal shows the images (``cli/inline_images.py``); "" for not at all.

    Raises:
        BadParameter: The output cannot take the images.
        JanusEdgeError: The request cannot be run, or a file cannot be written.
    """
    total = len(request.prompts) * request.num_images
    write, kind = _check_output(output, total, json), format_of(output or DEFAULT)
    session = Session(open_bundle(model), num_threads=threads, device=device)
    events = session.generate_image(request)
    _check_texts(session, request, kind)
    if previews is not None:
        make_folder(previews)
    drawn: list[dict[str, Any]] = []
    timings: dict[str, float] = {}
    try:
        with keeping(lambda: _kept(drawn, total)), _progress(shown) as (advance, show):
            for event in events:
                match event:
                    case Progress(done=done, total=of, unit=unit):
                        advance(done, of, unit)
                    case Preview(index=index, pixels=pixels, done=done):
                        show(pixels)
                        if previews:
                            save_image(pixels, previews / f"{index:03}-{done:04}.png", {})
                    case Image(pixels=pixels, index=index, seed=seed):
                        show(pixels)
                        texts = texts_of(session, request, index, seed)
                        path = write(index, encode(pixels, kind, texts))
                        drawn.append({"file": path, "prompt": texts["prompt"], "seed": seed})
                    case Finished(timings_ms=timings):
                        pass
    finally:  # after the bar is gone, which would overwrite the lines
        if not json:
            _list(drawn, output)
    if json:
        print_json(_document(session, request, drawn, timings))
    else:
        took = ", ".join(f"{name} {ms:.0f}" for name, ms in timings.items())
        how = "approximate; " if is_approximate(session.image_settings(request)) else ""
        typer.echo(f"{how}ms: {took}", err=True)


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


def _check_output(output: Path | None, total: int, json: bool) -> _Write:
    """Refuse now what cannot be written later; return the function that writes an image."""
    if output is None:
        check_folder(DEFAULT.parent)
        first = None if total == 1 else 1
        return lambda index, content: write_new(DEFAULT, content, first=first)
    check_writable(output)
    if is_standard_output(output):
        if json:
            raise typer.BadParameter("--json and -o - both want standard output; leave out one")
        if sys.stdout.isatty():
            raise typer.BadParameter("standard output is a terminal; send it to a file or program")
    if is_pipe(output) and total > 1:
        raise typer.BadParameter(f"{output}: a pipe takes one image; draw one, or use -o -")
    if total == 1 or is_stream(output):
        names = [output] * total
    else:
        names = [output.with_stem(f"{output.stem}-{i + 1}") for i in range(total)]
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
    for each in drawn:
        name = STANDARD_OUTPUT if beside else each["file"]
        typer.echo(f"{name}\tseed {each['seed']}\t{one_line(each['prompt'])}", err=beside)


def _kept(drawn: list[dict[str, Any]], total: int) -> str:
    """Return a line on what an interrupted command leaves."""
    return f"{len(drawn)} of {total} images kept" if drawn else "no image was finished"


def _document(
    session: Session,
    request: ImageRequest,
    drawn: list[dict[str, Any]],
    timings: dict[str, float],
) -> dict[str, Any]:
    """Return the document of ``--json``."""
    return {
        "bundle": session.bundle.manifest.name,
        "bundle_sha256": session.bundle.sha256,
        "settings": dataclasses.asdict(session.image_settings(request)),
        "approximate": is_approximate(session.image_settings(request)),
        "images": drawn,
        "timings_ms": timings,
    }
