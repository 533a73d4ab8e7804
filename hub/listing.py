"""The hub's listing of a repository, checked before any of it is used.

What is listed becomes file names in the cache and limits of downloads, so a listing is refused as
a whole unless its commit and hashes are hex digits, its sizes are sizes, and its names could be
files of a git repository on any system.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

_MAX_FILES = 100_000
_MAX_NAME_BYTES = 1024
_MAX_PART_BYTES = 255  # of a folder's or file's name, on common file systems

_Size = Annotated[int, Field(ge=0, lt=2**50)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_GitHash = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class UnexpectedAnswer(Exception):
    """The hub's answer is none that a hub gives. The text goes on after the hub's address."""


class Lfs(BaseModel, strict=True, frozen=True):
    """A large file's size in bytes and SHA-256."""

    size: _Size
    sha256: _Sha256


class ListedFile(BaseModel, strict=True, frozen=True):
    """A file of the listing. A hub may leave out sizes and hashes."""

    name: str = Field(alias="rfilename")
    small_size: _Size | None = Field(default=None, alias="size")
    git_hash: _GitHash | None = Field(default=None, alias="blobId")
    lfs: Lfs | None = None

    @property
    def size(self) -> int | None:
        """Bytes that the file has, None if the hub does not say."""
        return self.lfs.size if self.lfs else self.small_size

    @property
    def hash(self) -> str | None:
        """SHA-256 of a large file, git's hash of a small one, None if the hub does not say."""
        return self.lfs.sha256 if self.lfs else self.git_hash


class Listing(BaseModel, strict=True, frozen=True):
    """A commit and its files."""

    commit: _GitHash = Field(alias="sha")
    siblings: list[ListedFile] = Field(max_length=_MAX_FILES)


def parse_listing(raw: bytes) -> tuple[str, dict[str, ListedFile]]:
    """Return the commit, and the files by their names. Raises UnexpectedAnswer."""
    try:
        found = Listing.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise UnexpectedAnswer(f"sends an odd listing: {where}: {first['msg']}") from None
    names = [file.name for file in found.siblings]
    for name in names:
        _check_name(name)
    folders = {name[: at.start()] for name in names for at in re.finditer("/", name)}
    twice = [name for name, count in Counter(names).items() if count > 1 or name in folders]
    if twice:
        raise UnexpectedAnswer(f"lists {twice[0]!r:.200} twice")
    return found.commit, {file.name: file for file in found.siblings}


def same_elsewhere(name: str, files: dict[str, ListedFile]) -> str | None:
    """Return a file whose name is the same where case or the form of accents makes no difference.

    Such a pair is refused only where one of it is needed: other files are never written.
    """
    return next((other for other in files if other != name and _fold(other) == _fold(name)), None)


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _too_long(name: str) -> bool:
    sizes = [len(part.encode()) for part in name.split("/")]
    return max(sizes) > _MAX_PART_BYTES or len(name.encode()) > _MAX_NAME_BYTES


_UNFIT: dict[str, Callable[[str], object]] = {
    "is too long": _too_long,
    "has characters that cannot be printed": lambda name: not name.isprintable(),
    "has a backslash": lambda name: "\\" in name,
    "begins with a drive": re.compile(r"[A-Za-z]:").match,
    "leads out of the repository": lambda name: not {"", ".", ".."}.isdisjoint(name.split("/")),
}


def _check_name(name: str) -> None:
    """Raise UnexpectedAnswer for a name that is none of a file in a repository."""
    for reason, is_unfit in _UNFIT.items():
        if is_unfit(name):
            raise UnexpectedAnswer(f"lists a file whose name {reason}: {name!a:.100}")
