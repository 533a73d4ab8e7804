"""Download files of a repository, and check each one.

Files lie in huggingface_hub's cache, in its documented layout, so that other programs find them
too. That library names files by headers of the answers, and downloads a file anew if its download
was cut. Here, of an answer only the listing's hex digits and checked names become paths
(``listing``), no file exceeds its listed size (``transfer``), and a file gets its name when its
hash is right.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import constants, hf_hub_url
from huggingface_hub.errors import HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import WeakFileLock, tqdm, validate_repo_id

from janus_edge.hub.listing import ListedFile, UnexpectedAnswer, parse_listing, same_elsewhere
from janus_edge.hub.transfer import Refused, Silence, download, read_capped
from janus_edge.runtime.bundle import file_sha256
from janus_edge.runtime.errors import PullError
from janus_edge.runtime.files import atomic_write, sync, sync_folder

REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # owner/name
_LISTING_BYTES = 32 * 2**20
_LISTING_S = 60.0
_WEIGHTS = re.compile(r".*\.(safetensors|bin|npy|onnx|data|engine)")
_SMALL_BYTES = 64 * 2**20  # limit of each file that is not weights: it is read into memory
_WEIGHTS_BYTES = 2**40
_LONGEST_REVISION = 255  # characters, as for a file's name


def find(
    repo: str,
    *,
    revision: str | None = None,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
) -> Repository:
    """Return the commit that a revision means, with the list of its files.

    Args:
        repo: Repository, ``owner/name``.
        revision: Branch, tag or commit; None for the newest.
        endpoint: Address of the hub; None for HF_ENDPOINT.
        cache_dir: Folder to download to; None for huggingface_hub's cache.

    Raises:
        PullError: There is no such revision, or the hub cannot be asked.
    """
    endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
    if revision is not None and len(revision) > _LONGEST_REVISION:
        raise PullError(
            f"{repo}: has no revision of {len(revision)} characters; give a shorter one"
        )
    with _one_line(repo, revision, endpoint):
        validate_repo_id(repo)
        at = "" if revision is None else f"/revision/{quote(revision, safe='')}"
        url = f"{endpoint}/api/models/{repo}{at}?blobs=true"
        raw = read_capped(url, most=_LISTING_BYTES, within_s=_LISTING_S)
        commit, files = parse_listing(raw)
    return Repository(
        repo=repo,
        commit=commit,
        endpoint=endpoint,
        cache_dir=cache_dir or Path(constants.HF_HUB_CACHE),
        files=files,
    )


@dataclass(frozen=True, kw_only=True)
class Repository:
    """One commit of a repository, and the cache that its files go to.

    Attributes:
        repo: Repository, ``owner/name``.
        commit: The commit, 40 hex digits.
        endpoint: Address of the hub.
        cache_dir: Folder of the cache.
        files: Files of the commit by name.
    """

    repo: str
    commit: str
    endpoint: str
    cache_dir: Path
    files: dict[str, ListedFile]

    def fetch(self, name: str) -> Path:
        """Return a file in the cache, downloaded if need be, and checked.

        Raises:
            PullError: The file cannot be downloaded, or is damaged.
        """
        file = self.files[name]
        path = self._folder / "snapshots" / self.commit / name
        with _one_line(self.repo, self.commit, self.endpoint):
            if other := same_elsewhere(name, self.files):
                raise UnexpectedAnswer(f"lists both {name} and {other}, on many systems one file")
            if path.is_file():
                self._check(file, path)
            else:
                self._add(file, path)
        return path

    def fetch_all(self, names: list[str], report: Callable[[str], None]) -> list[Path]:
        """Return several files in the cache; report the commit, and what could not be checked.

        Raises:
            PullError: A file cannot be downloaded, or is damaged.
        """
        report(f"{self.repo}: commit {self.commit}, {len(names)} of {len(self.files)} files")
        paths = [self.fetch(name) for name in names]
        for name in names:
            if self.files[name].hash is None:
                report(f"{self.repo}: {name} not checked, as {self.endpoint} gives no hash of it")
        return paths

    @property
    def _folder(self) -> Path:
        """Folder of the repository in the cache."""
        return self.cache_dir / "--".join(("models", *self.repo.split("/")))

    def _add(self, file: ListedFile, path: Path) -> None:
        """Download a file that the cache lacks, and link a snapshot's path to it."""
        key = file.hash or hashlib.sha256(f"{self.commit}/{file.name}".encode()).hexdigest()
        blob = self._folder / "blobs" / key
        lock = self.cache_dir / ".locks" / self._folder.name / f"{key}.lock"
        for each in (blob, lock, path):
            each.parent.mkdir(parents=True, exist_ok=True)
        for each in (blob, path):  # the user may have linked the repository's folder itself
            if not each.parent.resolve().is_relative_to(self._folder.resolve()):
                raise OSError(errno.EXDEV, "leads out of the cache", str(each.parent))
        with WeakFileLock(lock):
            if file.hash is None or not blob.is_file():
                part = blob.with_name(f"{key}.incomplete")
                self._download(file, part)
                self._check(file, part)
                sync(part)
                part.replace(blob)
                sync_folder(blob.parent)
            _link(blob, path)

    def _download(self, file: ListedFile, part: Path) -> None:
        """Download a file with a progress bar; go on where ``part`` ends."""
        url = hf_hub_url(self.repo, file.name, revision=self.commit, endpoint=self.endpoint)
        had = part.stat().st_size if part.exists() else 0
        most = _WEIGHTS_BYTES if _WEIGHTS.fullmatch(file.name) else _SMALL_BYTES
        words = {"unit": "B", "unit_scale": True, "desc": f"…{file.name[-40:]}"}
        bar = tqdm(total=file.size, initial=had, disable=None, **words)  # type: ignore[no-untyped-call]
        with bar:
            download(url, part, file.size, most, bar.update)

    def _check(self, file: ListedFile, path: Path) -> None:
        """Compare a file with the listing's hash; delete a damaged one from the cache."""
        expected = file.hash
        if expected is None:
            return
        found = file_sha256(path) if file.lfs else _git_hash(path)
        if found != expected:
            _drop(path, self._folder)
            kind = "SHA-256" if file.lfs else "git hash"
            raise PullError(
                f"{self.repo}: {file.name} is damaged: its {kind} is {found[:12]}…, "
                f"not {expected[:12]}…; run pull again"
            )


def _git_hash(path: Path) -> str:
    """Return git's hash of a file."""
    found = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(2**20):
            found.update(piece)
    return found.hexdigest()


def _link(blob: Path, path: Path) -> None:
    """Link a snapshot's path to a blob, or copy the blob where links are not possible."""
    path.unlink(missing_ok=True)  # a broken link
    try:
        path.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:
        with atomic_write(path) as part:
            shutil.copyfile(blob, part)


def _drop(path: Path, folder: Path) -> None:
    """Delete a file and the links that lead to it, as far as they lie in the folder."""
    inside = folder.resolve()
    while (path.parent.resolve() / path.name).is_relative_to(inside):
        target = path.parent / path.readlink() if path.is_symlink() else None
        path.unlink(missing_ok=True)
        if target is None:
            return
        path = target


@contextmanager
def _one_line(repo: str, revision: str | None, endpoint: str) -> Iterator[None]:
    """Turn whatever goes wrong with the hub or the cache into a PullError."""
    try:
        yield
    except (OSError, HTTPError, ValueError, Silence, Refused, UnexpectedAnswer) as error:
        raise PullError(f"{repo}: {_says(error, repo, revision, endpoint)}") from error


_GATED = "gated; accept its terms at {endpoint}/{repo}, then set HF_TOKEN to your token"
_NONE = "no such repository at {endpoint}, or a private one; check it, or set HF_TOKEN"
_CODES = {
    "GatedRepo": _GATED,
    "RepoNotFound": _NONE,
    "RevisionNotFound": "has no revision {revision}; give a branch, tag or commit of it",
}
_STATUSES = {
    401: "{endpoint} asks who you are; set HF_TOKEN to a token that it accepts",
    404: "{endpoint} answered 404; check the name, or HF_ENDPOINT",
}


def _says(error: BaseException, repo: str, revision: str | None, endpoint: str) -> str:
    """Return an error as the rest of a line: what went wrong, and what to do."""
    match error:
        case HFValidationError():
            return "not a repository's name; give it as owner/name"
        case OfflineModeIsEnabled():
            return "cannot be downloaded while HF_HUB_OFFLINE is set; unset it"
        case Refused(status=status, code=code):
            other = f"{{endpoint}} answered {status}; try again later"
            words = _CODES.get(code) or _STATUSES.get(status, other)
            return words.format(endpoint=endpoint, repo=repo, revision=revision)
        case UnexpectedAnswer():
            return f"{endpoint} does not answer like a hub: it {error}; check HF_ENDPOINT"
        case OSError(strerror=str(reason), filename=path):
            where = path or "huggingface_hub's cache"
            return f"{where}: {reason}; make room there, or set HF_HOME to another folder"
        case ValueError():
            return f"{endpoint} does not answer like a hub; check HF_ENDPOINT"
    reason = str(error).split("\n")[0] or type(error).__name__
    return f"{endpoint}: {reason}; check the connection and pull again: it goes on where it stopped"
