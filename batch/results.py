"""The folder of a batch: images, and a line of results for each item in the input's order.

A result is written when its image is there, whole. So what a killed run leaves is a beginning of
what a whole run writes, and perhaps an image and a part of a line more, which the next run writes
again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from janus_edge.batch.items import Item
from janus_edge.batch.run import Outcome
from janus_edge.runtime.errors import OptionError, OutputError
from janus_edge.runtime.files import atomic_write
from janus_edge.runtime.output import write_output

RESULTS, ABOUT, IMAGES = "results.jsonl", "batch.json", "images"


class Results:
    """The results of a batch in its folder.

    Attributes:
        folder: The folder.
        done: How many items have their results.
        failed: How many of these are errors.
    """

    def __init__(self, folder: Path, items: list[Item], about: dict[str, str]) -> None:
        """Begin a batch, or go on with it.

        Args:
            folder: The folder; it is made.
            items: All items.
            about: What the results depend on besides the items.

        Raises:
            OptionError: The folder holds another batch, or something else.
            OutputError: It cannot be written.
        """
        self.folder, self._names = folder, [item.name for item in items]
        described = [[item.name, dict(item.values)] for item in items]
        content = json.dumps(described, sort_keys=True).encode()
        about = {**about, "items_sha256": hashlib.sha256(content).hexdigest()}
        try:
            self._begin(about)
            lines = self._whole_lines()
        except OSError as error:
            raise OutputError(
                f"{error.filename or folder}: {error.strerror}; name a folder to write to"
            ) from None
        self.done, self.failed = len(lines), sum("error" in line for line in lines)

    def _begin(self, about: dict[str, str]) -> None:
        path = self.folder / ABOUT
        if path.exists():
            if _read(path) != about:
                raise OptionError(
                    f"{self.folder}: holds the results of other items or of another model; give "
                    "another folder"
                )
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise OptionError(f"{self.folder}: is not empty; give another folder")
        (self.folder / IMAGES).mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with atomic_write(path) as part:
                part.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")

    def _whole_lines(self) -> list[dict[str, Any]]:
        """Return the results that are there; cut off a part of a line."""
        path = self.folder / RESULTS
        raw = path.read_bytes() if path.exists() else b""
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        try:
            found = [json.loads(line) for line in whole.splitlines()]
            names = [line["id"] for line in found]
        except (ValueError, TypeError, KeyError):
            names = [""]
        if names != self._names[: len(names)]:
            raise OptionError(f"{path}: was changed; remove it, or give another folder")
        return found

    def fill(
        self,
        items: list[Item],
        make: Callable[[list[Item]], Iterator[Outcome]],
        show: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Work on what is left, and write each result.

        Args:
            items: All items.
            make: Yields what comes of items, in their order.
            show: Called with the number of items that are done.

        Raises:
            OutputError: A file cannot be written.
        """
        left = items[self.done :]
        for item, outcome in zip(left, make(left), strict=True):
            self.add(item, outcome)
            show(self.done)

    def add(self, item: Item, outcome: Outcome) -> None:
        """Write what came of the next item: its image, then its line. Raises OutputError."""
        result = {"id": item.name, **item.values, **outcome.values}
        if outcome.image is not None:
            result["image"] = f"{IMAGES}/{item.name}.png"
            write_output(self.folder / result["image"], outcome.image)
        elif len(shown := item.values.get("images", ())) == 1:  # as ``data build`` reads it
            result["image"] = os.path.relpath(item.folder / shown[0], self.folder.absolute())
        path = self.folder / RESULTS
        try:
            with path.open("ab") as file:
                file.write(json.dumps(result).encode() + b"\n")
        except OSError as error:
            raise OutputError(
                f"{path}: {error.strerror}; make room there, then start again: it goes on"
            ) from None
        self.done += 1
        self.failed += "error" in result


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None
