"""Images in the terminal, by textual-image: kitty's protocol, sixel (iTerm2 too), or half blocks.

An image that is being drawn sharpens in place. A terminal with sixel shows the finished image only:
its pixels cannot be replaced in place.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from PIL import Image as PilImage
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from janus_edge.runtime.stop import displayed

COLUMNS = 40  # of an image, at most
_SMALL = 384  # px; smaller images are enlarged without blur
_REFRESH = 8  # per second
_LINES = 4  # of text that stay on the screen with an image

# Shows an image and a line below it; None leaves what is there.
Show = Callable[[np.ndarray | None, str | None], None]


def kind_of() -> str:
    """Return how the terminal shows images: "kitty", "sixel", "blocks", or "" for not at all."""
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        return ""
    if 0 in os.get_terminal_size(sys.stdout.fileno()):  # it does not say how large it is
        return ""
    # It warns where the terminal does not answer; the warning would be drawn in an image's place.
    logging.getLogger("textual_image").setLevel(logging.ERROR)
    try:
        from textual_image import renderable
    except ImportError:
        return ""
    kinds = {renderable.TGPImage: "kitty", renderable.SixelImage: "sixel"}
    kind = kinds.get(renderable.Image, "blocks")
    if kind == "kitty" and not _places_images():
        kind = "blocks"
    return kind


@cache
def _places_images() -> bool:
    """Return whether a terminal with kitty's protocol shows images in place of characters.

    kitty does so from 0.28 on; before, it would show empty boxes. It does not answer what it does
    not know.
    """
    from textual_image._terminal import TerminalError, capture_terminal_response

    try:
        with capture_terminal_response("\x1b_G", "\x1b\\", timeout=0.2) as answer:
            sys.stdout.write("\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24,U=1;AAAA\x1b\\")
            sys.stdout.flush()
    except (TerminalError, TimeoutError):
        return False
    return ";OK" in answer.sequence


def kind_shown(wanted: bool | None) -> str:
    """Return how a command shows images, "" for not at all.

    Args:
        wanted: True for in any way that the terminal has; None for with real pixels only.
    """
    if wanted is False:
        return ""
    kind = kind_of()
    return kind if wanted or kind in ("kitty", "sixel") else ""


def image_of(pixels_HWC: np.ndarray, console: Console, kind: str) -> Any:
    """Return what rich prints for an image.

    Args:
        pixels_HWC: The image (H, W, 3) uint8.
        console: Where it is printed.
        kind: What ``kind_of`` returned.
    """
    from textual_image import renderable

    of = {"kitty": renderable.TGPImage, "sixel": renderable.SixelImage}
    image = PilImage.fromarray(pixels_HWC)
    if max(image.size) < _SMALL:
        factor = -(-_SMALL // max(image.size))
        size = (image.width * factor, image.height * factor)
        image = image.resize(size, PilImage.Resampling.NEAREST)
    room = 2 * (console.height - _LINES) * image.width // image.height  # a cell is twice as high
    width = max(4, min(COLUMNS, console.width - 2, room))
    # "auto" would ask the terminal how large a cell is, again and again where it does not say.
    height = max(1, round(width * image.height / image.width / 2))
    return of.get(kind, renderable.HalfcellImage)(image, width=width, height=height)


@contextmanager
def sharpening(console: Console, kind: str) -> Iterator[Show]:
    """Yield a function that shows an image in place of the one before, and a line below it.

    Args:
        console: Where it is shown. What is there when the block ends stays.
        kind: What ``kind_of`` returned; with "" only the line is shown, and goes in the end.
    """
    last: dict[str, Any] = {"image": None, "line": ""}
    in_place = kind in ("kitty", "blocks")

    def shown() -> Any:
        line = Text(last["line"], style="dim")
        if last["image"] is None or not in_place:
            return line
        return Group(image_of(last["image"], console, kind), line)

    live = Live(
        get_renderable=shown,
        console=console,
        refresh_per_second=_REFRESH,
        transient=not in_place,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with displayed(live):

        def show(pixels_HWC: np.ndarray | None, line: str | None) -> None:
            last["line"] = last["line"] if line is None else line
            last["image"] = last["image"] if pixels_HWC is None else pixels_HWC

        yield show
        live.refresh()
    if kind == "sixel" and last["image"] is not None:
        console.print(image_of(last["image"], console, kind))
        console.print(Text(last["line"], style="dim"))


def print_image(pixels_HWC: np.ndarray, console: Console, kind: str) -> None:
    """Show a finished image, where the terminal can."""
    if kind:
        console.print(image_of(pixels_HWC, console, kind))
