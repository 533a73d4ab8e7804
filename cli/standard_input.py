"""Prompts from files, and what ``-`` stands for: prompts, or an image, from standard input."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from PIL.Image import Image

STANDARD_INPUT = "-"
_CHUNK = 1 << 20  # bytes per read
_WAIT_S = 0.1
_MAX_TEXT = 4 << 20  # bytes: 1024 prompts, each longer than any model's context


def prompts_from(words: list[str]) -> tuple[str, ...]:
    """Return the prompts, with those of standard input instead of ``-``.

    Standard input holds one prompt per line, in UTF-8. Empty lines are ignored.

    Args:
        words: Prompts of the command line.

    Raises:
        PromptError: Standard input is empty.
        BadParameter: There are several ``-``, or standard input cannot be read.
    """
    from janus_edge.runtime.errors import PromptError

    if STANDARD_INPUT not in words:
        return tuple(map(as_text, words))
    _check_once(words.count(STANDARD_INPUT))
    lines = _lines(_read(_MAX_TEXT, "prompts"))
    if not lines:
        raise PromptError("standard input is empty; give it a prompt a line")
    at = words.index(STANDARD_INPUT)
    return (*map(as_text, words[:at]), *lines, *map(as_text, words[at + 1 :]))


def prompts_of(path: Path) -> list[str]:
    """Return the prompts of a file, one per line, in UTF-8. Empty lines are ignored.

    Raises:
        PromptError: The file cannot be read, is too long or empty.
    """
    from janus_edge.runtime.errors import PromptError
    from janus_edge.runtime.reading import read_regular

    try:
        lines = _lines(read_regular(path, _MAX_TEXT))
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise PromptError(f"{path}: {reason}; name a file with a prompt a line") from None
    if not lines:
        raise PromptError(f"{path}: is empty; give it a prompt a line")
    return lines


def _lines(content: bytes) -> list[str]:
    text = content.decode("utf-8", "replace").removeprefix("\ufeff")
    return [line.rstrip("\r") for line in text.split("\n") if line.strip()]


def as_text(word: str) -> str:
    """Return an argument as UTF-8 even if the locale could not read it; U+FFFD for bad bytes."""
    return word.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def images_from(paths: list[Path]) -> list[Image]:
    """Return the images, with that of standard input instead of ``-``.

    Args:
        paths: Image files of the command line.

    Raises:
        ImageError: An image cannot be read.
        BadParameter: There are several ``-``, or standard input cannot be read.
    """
    from janus_edge.runtime.image import load_image

    _check_once(paths.count(Path(STANDARD_INPUT)))
    return [_image() if path == Path(STANDARD_INPUT) else load_image(path) for path in paths]


def _image() -> Image:
    """Return the image of standard input."""
    from janus_edge.runtime.errors import ImageError
    from janus_edge.runtime.image import decode_image
    from janus_edge.runtime.image_bytes import MAX_BYTES

    content = _read(MAX_BYTES, "an image")
    if not content:
        raise ImageError("standard input is empty; give it an image")
    return decode_image(content, "standard input")


def _check_once(count: int) -> None:
    """Refuse several ``-``; raise BadParameter."""
    if count > 1:
        raise typer.BadParameter("standard input can be read once; give one -")


def _read(most: int, what: str) -> bytes:
    """Return standard input to its end.

    Raises:
        BadParameter: It is closed, a folder or longer than ``most`` bytes.
    """
    if sys.stdin is None:
        raise typer.BadParameter("standard input is closed; leave out the -")
    if sys.stdin.isatty():
        # One write, so that a Ctrl-C cannot come between the words and the end of their line.
        sys.stderr.write(f"note: reading {what} from the terminal; Ctrl-D ends it\n")
    try:
        content = _up_to(most + 1)
    except OSError as error:  # a folder
        raise typer.BadParameter(f"standard input: {error.strerror}") from None
    if len(content) > most:
        raise typer.BadParameter(f"standard input is longer than {most >> 20} MB; give less")
    return content


def _up_to(most: int) -> bytes:
    """Return up to ``most`` bytes of standard input."""
    source, content = sys.stdin.fileno(), b""
    while len(content) < most:
        _wait_for(source)
        read = os.read(source, min(most - len(content), _CHUNK))
        if not read:
            break
        content += read
    return content


def _wait_for(source: int) -> None:
    """Wait until a descriptor can be read.

    The waits are short: a Ctrl-C that comes just before a wait begins is handled after it, and a
    read of a terminal ends no sooner than a person types.
    """
    if sys.platform == "win32":  # select takes sockets only
        return
    while not select.select([source], [], [], _WAIT_S)[0]:
        pass
