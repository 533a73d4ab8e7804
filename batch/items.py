"""The lines of a batch: what to draw and what to ask."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_edge.runtime.errors import ImageError, OptionError
from janus_edge.runtime.image import decode_image
from janus_edge.runtime.image_bytes import read_bytes
from janus_edge.runtime.json_text import parse_json
from janus_edge.runtime.reading import read_regular
from janus_edge.runtime.requests import SETTINGS, AskRequest, ImageRequest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DRAW = {"prompt", "seed", "reference", "fast", *SETTINGS}
_ASK = {"question", "images", "max_tokens", "temperature", "top_p", "seed"}
MOST_BYTES = 2**30  # of a file of items


@dataclass(frozen=True)
class Item:
    """A line of a batch.

    Attributes:
        name: Its "id", or its number: the name of its image, and of its result.
        values: The values of its request.
        folder: Where its images lie.
        files: The bytes of its images and their names; None if they are still to be read.
    """

    name: str
    values: Mapping[str, Any]
    folder: Path
    files: tuple[tuple[bytes, str], ...] | None = None

    @property
    def draws(self) -> bool:
        """True for a drawing, False for a question."""
        return "prompt" in self.values

    def request(self) -> ImageRequest | AskRequest:
        """Return the request. Its images are read only now.

        Raises:
            ImageError: An image cannot be read.
            OptionError: A value is out of range.
        """
        if self.draws:
            return ImageRequest(**self.values)
        images = [decode_image(*each) for each in self.read_images()]
        return AskRequest(**{**self.values, "images": images})

    def read_images(self) -> list[tuple[bytes, str]]:
        """Return the bytes of its images and their names. Raises ImageError."""
        if self.files is not None:
            return list(self.files)
        paths = [self.folder / path for path in self.values.get("images", ())]
        return [(read_bytes(path), str(path)) for path in paths]


def item_of(value: object, name: str, folder: Path, where: str) -> Item:
    """Return the item of a JSON value.

    Args:
        value: The value.
        name: Its name if it has no "id".
        folder: Where relative paths of images begin.
        where: What errors call it.

    Raises:
        OptionError: It is no drawing and no question, or a value is out of range.
    """
    if not isinstance(value, dict) or not {"prompt", "question"} & set(value):
        raise OptionError(f'{where}: no JSON object with a "prompt" or a "question"')
    values = dict(value)
    name = values.pop("id", name)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise OptionError(f"{where}: its id is no name of a file; use letters, digits, . _ and -")
    if not isinstance(values.get("prompt", ""), str):
        raise OptionError(f"{where}: its prompt is no text; write a line for each prompt")
    known = _DRAW if "prompt" in values else _ASK
    if unknown := sorted(set(values) - known):
        names = ", ".join(sorted(known | {"id"}))
        raise OptionError(f"{where}: has {unknown[0]}; it takes {names}")
    item = Item(name, values, folder)
    try:
        paths = values.get("images", [])
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise OptionError('images is no list of files; write ["a.png"]')
        Item(name, {**values, **({} if item.draws else {"images": []})}, folder).request()
    except (OptionError, ImageError) as error:
        raise OptionError(f"{where}: {error}") from None
    return item


def read_items(path: Path) -> list[Item]:
    """Return the items of a JSON lines file.

    Args:
        path: The file.

    Raises:
        OptionError: The file cannot be read, or a line is no item or has the id of another.
    """
    try:
        raw = read_regular(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OptionError(f"{path}: {reason}; name a file of JSON lines") from None
    try:
        lines = raw.decode().removeprefix("\ufeff").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        raise OptionError(f"{path}:{number}: is no UTF-8; write the file in UTF-8") from None
    digits = len(str(len(lines)))
    found: dict[str, Item] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = parse_json(line)
        except (ValueError, RecursionError) as error:
            why = " ".join(str(error).split())
            raise OptionError(f"{where}: no JSON: {why}; write an object on each line") from None
        item = item_of(value, f"{number:0{digits}}", path.absolute().parent, where)
        if item.name.casefold() in found:  # some disks take a.png and A.png for one file
            raise OptionError(f"{where}: its id is {item.name}, as of a line before; change one")
        found[item.name.casefold()] = item
    if not found:
        raise OptionError(f"{path}: is empty; write a prompt or a question on each line")
    return list(found.values())
