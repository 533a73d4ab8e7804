"""The hub's listing of a repository, checked before any of it is used.

The listing's entries become file names in the cache and limits of downloads. A listing is therefore
refused as a whole unless its commit and hashes are hex digits, its sizes are valid, and its names
could be files of a git repository on any system.
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
_MAX_PART_BYTES = 255  # limit of a folder's or file's name on common file systems

_Size = Annotated[int, Field(ge=0, lt=2**50)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_GitHash = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class UnexpectedAnswer(Exception):
    """The answer is none that a hub gives; the text continues a line that names the hub."""


class Lfs(BaseModel, strict=True, frozen=True):
    """A large file's size in bytes and SHA-256."""

    size: _Size
    sha256: _Sha256


class ListedFile(BaseModel, strict=True, frozen=True):
    """A file of the listing.

    Attributes:
        name: Path in the repository.
        small_size: Size in bytes of a file that is not large; None if the hub does not say.
        git_hash: Git's hash of the file or of its LFS pointer; None if the hub does not say.
        lfs: Size and hash of a large file; None for others.
    """

    name: str = Field(alias="rfilename")
    small_size: _Size | None = Field(default=None, alias="size")
    git_hash: _GitHash | None = Field(default=None, alias="blobId")
    lfs: Lfs | None = None

    @property
    def size(self) -> int | None:
        """Size of the file in bytes; None if the hub does not say."""
        return self.lfs.size if self.lfs else self.small_size

    @property
    def hash(self) -> str | None:
        """SHA-256 of a large file, git's hash of a small one; None if the hub does not say."""
        return self.lfs.sha256 if self.lfs else self.git_hash


class Listing(BaseModel, strict=True, frozen=True):
    """A commit and its files."""

    commit: _GitHash = Field(alias="sha")
    siblings: list[ListedFile] = Field(max_length=_MAX_FILES)


def parse_listing(raw: bytes) -> tuple[str, dict[str, ListedFile]]:
    """Return the commit, and the files by name.

    Args:
        raw: The hub's answer, JSON.

    Raises:
        UnexpectedAnswer: The answer is no listing, or has names that no repository has.
    """
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
    """Return another file that has the same name on some systems; None if there is none.

    On such systems case or the form of accents makes no difference. Such a pair is refused only
    when one of it is needed: other files are never written.

    Args:
        name: Name of the file that is needed.
        files: Files of the listing by name.
    """
    return next((other for other in files if other != name and _fold(other) == _fold(name)), None)


def _fold(name: str) -> str:
    """Return a name without case and without differences in the form of accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _too_long(name: str) -> bool:
    """Return True if common file systems refuse the name."""
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
    """Refuse a name that no file in a repository has; raise UnexpectedAnswer."""
    for reason, is_unfit in _UNFIT.items():
        if is_unfit(name):
            raise UnexpectedAnswer(f"lists a file whose name {reason}: {name!a:.100}")
