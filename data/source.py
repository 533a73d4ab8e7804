"""The data of a training: a folder of shards per role, or a TOML file that lists them."""

from __future__ import annotations

import hashlib
import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from janus_edge.data.content import Content
from janus_edge.data.errors import BrokenSample, DataError
from janus_edge.data.samples import Sample, Shards, shards_of
from janus_edge.runtime.reading import read_regular

ROLES = ("understanding", "text", "generation")
CLASS_PROMPTS = "class_prompts"  # images with the name of their class as caption: ImageNet's
_MOST_TOML = 2**20  # bytes
_MOST_REPEAT = 1000
_TRIED = 16  # samples of a role, evenly spaced, that are looked at when it is opened
_FORM = 'write roles as in generation = ["FOLDER", {path = "FOLDER", repeat = 2}]'


def misfit(role: str, content: Content, has_image: bool) -> str:
    """Return why a sample cannot serve in a role, "" if it can. Other roles take any sample."""
    if role in ("generation", CLASS_PROMPTS) and not (has_image and content.captions):
        return f"a {content.kind} where {role} needs an image with a caption"
    if role == "understanding" and not has_image:
        return f"a {content.kind} without an image where understanding needs one"
    if role == "text" and has_image:
        return "an image where text needs none"
    return ""


class Role:
    """The samples that serve for one purpose.

    Attributes:
        name: understanding, text, generation, or any other name.
        shards: Where the samples are.
    """

    def __init__(self, name: str, parts: list[tuple[Path, int]]) -> None:
        """Open the shards, and see whether they serve.

        Args:
            name: The role.
            parts: Shards or folders of shards, each with how often an epoch takes its samples.

        Raises:
            DataError: Shards are missing or cannot be read, or hold samples of another kind.
        """
        self.name = name
        files = [shards_of(path) for path, _ in parts]
        self.shards = Shards([file for each in files for file in each])
        bounds = [0, *self.shards.ends[np.cumsum([len(each) for each in files]) - 1]]
        spans = [
            span
            for span, (_, repeat) in zip(itertools.pairwise(bounds), parts, strict=True)
            for _ in range(repeat)
        ]
        self._starts = np.array([start for start, _ in spans])
        self._ends = np.cumsum([end - start for start, end in spans])
        self._check()

    def __len__(self) -> int:
        """Return how many examples an epoch has: samples, times their repeats."""
        return int(self._ends[-1])

    @property
    def digest(self) -> str:
        """Return a hash of the shards and their repeats."""
        found = hashlib.sha256(f"{self.name}:{self.shards.digest}".encode())
        for array in (self._starts, self._ends):
            found.update(array.astype("<i8").tobytes())
        return found.hexdigest()

    def number(self, place: int) -> int:
        """Return which sample of the shards an epoch has at a place, before it is shuffled."""
        span = int(np.searchsorted(self._ends, place, "right"))
        return int(self._starts[span]) + place - (int(self._ends[span - 1]) if span else 0)

    def sample(self, i: int) -> Sample:
        """Return what the i-th sample of the shards says.

        Raises:
            BrokenSample: It cannot be read, or cannot serve in this role.
        """
        sample = self.shards.sample(i)
        if why := misfit(self.name, sample, sample.has_image):
            raise BrokenSample(self.shards.name(i), why)
        return sample

    def _check(self) -> None:
        """Raise DataError if none of some samples can serve."""
        first: BrokenSample | None = None
        for i in np.linspace(0, len(self.shards) - 1, _TRIED).astype(int):
            try:
                self.sample(int(i))
            except BrokenSample as error:
                first = first or error
            else:
                return
        raise DataError(
            f"{first}; no sample that was tried serves in role {self.name}: check its shards"
        )


@dataclass(frozen=True)
class Source:
    """The data of a training by role."""

    path: Path
    roles: Mapping[str, Role]

    @property
    def digest(self) -> str:
        """Return a hash of all roles; a copy of the data elsewhere has the same."""
        words = "".join(f"{name}:{role.digest};" for name, role in sorted(self.roles.items()))
        return hashlib.sha256(words.encode()).hexdigest()


def open_source(path: Path) -> Source:
    """Open a folder with a folder of shards per role, or a TOML file.

    Raises:
        DataError: It is missing, has no shards, or a role has none that serve.
    """
    parts = _listed(path) if path.suffix == ".toml" else _in_folder(path)
    return Source(path, {name: Role(name, each) for name, each in parts.items()})


def _in_folder(path: Path) -> dict[str, list[tuple[Path, int]]]:
    """Return the folders that are roles: those of ROLES, and any other with shards."""
    try:
        if not path.is_dir():
            raise DataError(f"{path}: no such folder; give one with {', '.join(ROLES)} in it")
        found = {}
        for each in sorted(path.iterdir()):
            is_role = each.name in ROLES or any(each.glob("*.tar*"))
            if each.is_dir() and not each.name.startswith(".") and is_role:
                found[each.name] = [(each, 1)]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; check the path") from None
    if not found:
        raise DataError(
            f"{path}: no folder of shards in it; name them by their role: {', '.join(ROLES)}"
        )
    return found


def _listed(path: Path) -> dict[str, list[tuple[Path, int]]]:
    """Return what a TOML file lists; paths are relative to it."""
    try:
        found = tomllib.loads(read_regular(path, _MOST_TOML).decode())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; check the path") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not TOML: {error}; {_FORM}") from None
    if not found:
        raise DataError(f"{path}: no role in it; {_FORM}")
    return {name: _parts(path, name, value) for name, value in found.items()}


def _parts(path: Path, name: str, value: Any) -> list[tuple[Path, int]]:
    parts = []
    for each in value if isinstance(value, list) else [value]:
        given = {"path": each} if isinstance(each, str) else each
        if not isinstance(given, dict) or not {"path"} <= given.keys() <= {"path", "repeat"}:
            raise DataError(f"{path}: role {name} is no list of paths; {_FORM}")
        where, repeat = given["path"], given.get("repeat", 1)
        if not isinstance(where, str) or not where:
            raise DataError(f"{path}: role {name} has a path that is no text; {_FORM}")
        if type(repeat) is not int or not 1 <= repeat <= _MOST_REPEAT:
            raise DataError(
                f"{path}: role {name} repeats {where} {repeat} times; give a whole number from 1 "
                f"to {_MOST_REPEAT}"
            )
        parts.append((path.parent / where, repeat))
    if not parts:
        raise DataError(f"{path}: role {name} lists no shards; {_FORM}")
    return parts
