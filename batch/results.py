"""The folder of a batch: images, and a line of results for each item in the input's order.

A result is written when its image is there, whole. So what a killed run leaves is a beginning of
what a whole run writes, and perhaps an image and a part of a line more, which the next run writes
again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from janus_edge.batch.items import Item
from janus_edge.batch.run import Outcome
from janus_edge.runtime.errors import OptionError, OutputError
from janus_edge.runtime.files import PREFIX, atomic_write
from janus_edge.runtime.locks import try_lock
from janus_edge.runtime.output import write_output

RESULTS, ABOUT, IMAGES = "results.jsonl", "batch.json", "images"
_KEEP_S = 60.0  # after which results of a second try are written


class Results:
    """The results of a batch in its folder.

    Attributes:
        folder: The folder.
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
            self._take()
            self._lines = self._whole_lines()
        except OSError as error:
            raise OutputError(
                f"{error.filename or folder}: {error.strerror}; name a folder to write to"
            ) from None

    @property
    def done(self) -> int:
        """Return how many items have their results."""
        return len(self._lines)

    @property
    def failed(self) -> int:
        """Return how many of these are errors."""
        return sum("error" in line for line in self._lines)

    def __del__(self) -> None:
        """Let others write here."""
        if hasattr(self, "_lock"):
            os.close(self._lock)

    def _take(self) -> None:
        """Keep others from writing here."""
        self._lock = os.open(self.folder / RESULTS, os.O_RDWR | os.O_CREAT, 0o666)
        if try_lock(self._lock) is False:
            raise OptionError(f"{self.folder}: another batch writes here; wait for it to end")

    def _begin(self, about: dict[str, str]) -> None:
        path = self.folder / ABOUT
        if path.exists():
            if _read(path) != about:
                raise OptionError(
                    f"{self.folder}: holds the results of other items or of another model; give "
                    "another folder"
                )
        elif self.folder.exists() and any(map(_is_other, self.folder.iterdir())):
            raise OptionError(f"{self.folder}: is not empty; give another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with atomic_write(path) as part:
                part.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        (self.folder / IMAGES).mkdir(exist_ok=True)

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

    def redo(
        self,
        items: list[Item],
        make: Callable[[list[Item]], Iterator[Outcome]],
        *,
        failed: bool,
    ) -> None:
        """Work again on what has lost its image, and on what failed if that is asked for.

        The new results take the place of the old every minute and at the end, also of a run that is
        stopped.

        Args:
            items: All items.
            make: Yields what comes of items, in their order.
            failed: Whether items that failed are tried again.

        Raises:
            OutputError: A file cannot be written.
        """
        again = [
            number
            for number, line in enumerate(self._lines)
            if (failed and "error" in line) or self._lost_image(line)
        ]
        if not again:
            return
        lines, kept = list(self._lines), time.monotonic()
        chosen = [items[number] for number in again]
        try:
            for number, item, outcome in zip(again, chosen, make(chosen), strict=True):
                lines[number] = self._line(item, outcome)
                if time.monotonic() - kept > _KEEP_S:
                    self._replace(lines)
                    kept = time.monotonic()
        finally:
            self._replace(lines)

    def _replace(self, lines: list[dict[str, Any]]) -> None:
        """Write all results anew; raise OutputError."""
        path = self.folder / RESULTS
        try:
            with atomic_write(path) as part:
                part.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            os.close(self._lock)
            self._take()
        except OSError as error:
            raise OutputError(f"{path}: {error.strerror}; make room there") from None
        self._lines = list(lines)

    def _lost_image(self, line: dict[str, Any]) -> bool:
        """Return True if a result's drawing is not there any more."""
        return "prompt" in line and "image" in line and not (self.folder / line["image"]).is_file()

    def add(self, item: Item, outcome: Outcome) -> None:
        """Write what came of the next item: its image, then its line. Raises OutputError."""
        line, path = self._line(item, outcome), self.folder / RESULTS
        try:
            with path.open("ab") as file:
                file.write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise OutputError(
                f"{path}: {error.strerror}; make room there, then start again: it goes on"
            ) from None
        self._lines.append(line)

    def _line(self, item: Item, outcome: Outcome) -> dict[str, Any]:
        """Write an item's image; return its result. Raises OutputError."""
        line = {"id": item.name, **item.values, **outcome.values}
        if outcome.image is not None:
            line["image"] = f"{IMAGES}/{item.name}.png"
            write_output(self.folder / line["image"], outcome.image)
        elif "answer" in outcome.values and len(shown := item.values.get("images", ())) == 1:
            # as ``data build`` reads it
            line["image"] = os.path.relpath(item.folder.resolve() / shown[0], self.folder.resolve())
        return line


def _is_other(path: Path) -> bool:
    """Return False for what a batch leaves that is killed before it has begun."""
    return not path.name.startswith(PREFIX)


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None
