"""Rows that shards are built from: a folder of images and texts, or a CSV, JSONL or JSON file."""

from __future__ import annotations

import csv
import io
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_edge.data.content import Content, load_object, parse, read_content
from janus_edge.data.errors import BrokenSample, DataError
from janus_edge.data.index import IMAGES
from janus_edge.data.place import MARKER
from janus_edge.data.samples import MOST_TEXT
from janus_edge.runtime.json_text import parse_json
from janus_edge.runtime.reading import open_regular, read_regular

COLUMNS = ("image", "caption", "question", "answer", "text")
_NEEDED = ({"image", "caption"}, {"image", "question", "answer"}, {"image", "text"}, {"text"})
_IMAGE_KEYS = ("image", "file_name", "images")  # Hugging Face's; a batch's results
_MOST_BYTES = 2**40
# Images that are not read; a row that has one is broken, so that its text is not taken alone.
_NOT_READ = ("avif", "bmp", "gif", "heic", "heif", "tif", "tiff")
_GIVE = "give a folder of images and texts, or a .csv, .jsonl or .json file"


@dataclass(frozen=True)
class Row:
    """A row that is whole as far as its text goes; its image has not been opened.

    Attributes:
        name: What it is called: a path in the folder, or file and line.
        image: Its image, None if it has none.
        content: What it says.
    """

    name: str
    image: Path | None
    content: Content


def rows_of(source: Path) -> Iterator[Row | BrokenSample]:
    """Yield the rows of a folder or file in order; for a broken one, what is wrong with it.

    Raises:
        DataError: The source cannot be read, or is of no kind that is known.
    """
    with _one_line(source):
        if source.is_dir():
            yield from _of_folder(source)
            return
        kinds = {".csv": _of_csv, ".jsonl": _of_jsonl, ".ndjson": _of_jsonl, ".json": _of_json}
        if (read := kinds.get(source.suffix.lower())) is None:
            what = "of no kind that is read" if source.exists() else "no such file or folder"
            raise DataError(f"{source}: {what}; {_GIVE}")
        yield from read(source)


@contextmanager
def _one_line(source: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename or source}: {error.strerror}; {_GIVE}") from None


# ---- a folder


def _raised(error: OSError) -> None:
    """Raise an error that ``os.walk`` would pass over, and the folder's rows with it."""
    raise error


def _of_folder(source: Path) -> Iterator[Row | BrokenSample]:
    """Yield each image with the .txt or .json of its stem, and each text without an image."""
    for folder, folders, files in os.walk(source, onerror=_raised):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        if MARKER in files and any(name.endswith(".tar") for name in files):
            continue  # shards that a build wrote
        stems: dict[str, list[Path]] = defaultdict(list)
        for name in sorted(each for each in files if not each.startswith(".")):
            path = Path(folder, name)
            if path.suffix.lower().removeprefix(".") in (*IMAGES, *_NOT_READ, "txt", "json"):
                stems[path.stem].append(path)
        for paths in stems.values():
            texts = {path.suffix.lower(): path for path in paths if _is_text(path)}
            images: list[Path | None] = [path for path in paths if not _is_text(path)]
            for image in images or [None]:
                shown = (image or next(iter(texts.values()))).relative_to(source)
                yield _row(str(shown), image, texts)


def _is_text(path: Path) -> bool:
    return path.suffix.lower() in (".txt", ".json")


def _row(name: str, image: Path | None, texts: Mapping[str, Path]) -> Row | BrokenSample:
    if not texts:
        return BrokenSample(name, "no .txt or .json of its name beside it")
    try:
        found = {suffix: read_regular(path, MOST_TEXT) for suffix, path in texts.items()}
        content = read_content(found.get(".json"), found.get(".txt"), image is not None)
    except OSError as error:
        return BrokenSample(name, f"its text cannot be read: {error.strerror}")
    except ValueError as error:
        return BrokenSample(name, str(error))
    return Row(name, image, content)


# ---- a file


def _of_csv(source: Path) -> Iterator[Row | BrokenSample]:
    csv.field_size_limit(MOST_TEXT)
    with _opened(source) as raw:
        # Bytes that are not UTF-8 become surrogates, which a text of a row may not hold.
        file = io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(file, strict=True)
        columns: list[str] | None = None
        for line, cells in _lines(source, reader):
            if columns is None:
                columns = _columns(source, cells)
            elif isinstance(cells, str):
                yield BrokenSample(f"{source.name}:{line}", f"not CSV: {cells}")
            elif cells:  # else an empty line
                yield _of_cells(source, line, columns, cells)
        if columns is None:
            _columns(source, [])


def _columns(source: Path, cells: list[str] | str) -> list[str]:
    """Return the names in a CSV's first line; raise DataError if they are others."""
    columns = [] if isinstance(cells, str) else [name.strip().lower() for name in cells]
    if not any(needed <= set(columns) for needed in _NEEDED):
        raise DataError(
            f"{source}: its first line names the columns {', '.join(columns)[:200] or 'none'}; "
            "name them image,caption or image,question,answer or text"
        )
    twice = [name for name in COLUMNS if columns.count(name) > 1]
    if twice:
        raise DataError(f"{source}: its first line names the column {twice[0]} twice; name it once")
    return columns


def _lines(source: Path, reader: Any) -> Iterator[tuple[int, list[str] | str]]:
    """Yield each row's first line and cells, or what is wrong with it.

    Raises:
        DataError: A quote never ends, so that rows are lost.
    """
    while True:
        line = reader.line_num + 1
        try:
            yield line, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error) or "field larger" in str(error):
                raise DataError(
                    f"{source}:{line}: a quote opens and never ends, or a cell is over 16 MiB; "
                    "close it, or shorten the cell"
                ) from None
            yield line, str(error)


def _of_cells(source: Path, line: int, columns: list[str], cells: list[str]) -> Row | BrokenSample:
    name = f"{source.name}:{line}"
    if len(cells) != len(columns):
        return BrokenSample(name, f"{len(cells)} cells under {len(columns)} columns")
    known = {key: cell or None for key, cell in zip(columns, cells, strict=True) if key in COLUMNS}
    return _of_object(source, name, known)


def _of_jsonl(source: Path) -> Iterator[Row | BrokenSample]:
    with _opened(source) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                name = f"{source.name}:{number}"
                try:
                    found = load_object(line)
                except ValueError as error:
                    yield BrokenSample(name, str(error))
                else:
                    yield _of_object(source, name, found)


def _of_json(source: Path) -> Iterator[Row | BrokenSample]:
    """Yield the objects of one array, as LLaVA's files are."""
    try:
        found = parse_json(read_regular(source, _MOST_BYTES).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: not JSON: {error}; give an array of objects") from None
    if not isinstance(found, list):
        raise DataError(f"{source}: not an array of objects; write one, or an object per line")
    for number, each in enumerate(found, 1):
        name = f"{source.name}[{number}]"
        if isinstance(each, dict):
            yield _of_object(source, name, each)
        else:
            yield BrokenSample(name, "not a JSON object")


def _opened(source: Path) -> io.BufferedReader:
    return os.fdopen(open_regular(source, _MOST_BYTES), "rb")


def _of_object(source: Path, name: str, found: Mapping[str, Any]) -> Row | BrokenSample:
    """Return the row of an object; its image's path is relative to the file."""
    image = next((found[key] for key in _IMAGE_KEYS if found.get(key) not in (None, [])), None)
    if isinstance(image, list) and len(image) == 1:
        image = image[0]
    if image is not None and (not isinstance(image, str) or not image.strip()):
        several = "several images" if isinstance(image, list) else "image is no path"
        return BrokenSample(name, several)
    if image is not None and "://" in image:
        return BrokenSample(name, "image is an address; download it and give its path")
    try:
        content = parse(found, image is not None)
    except ValueError as error:
        return BrokenSample(name, str(error))
    return Row(name, None if image is None else source.parent / image, content)
