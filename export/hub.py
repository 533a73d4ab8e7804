"""Downloading files of a repository, and checking every one.

Files lie in huggingface_hub's own cache, where other programs find them too. That library forgets
a large file whose download was stopped, and checks its size only; so large files are fetched here,
go on where they stopped, also in a later run, and get their name when their SHA-256 is right.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of the HTTP library that this version uses
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name, try_to_load_from_cache
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import WeakFileLock, build_hf_headers
from huggingface_hub.utils import logging as hub_logging

from janus_edge.runtime.bundle import file_sha256
from janus_edge.runtime.errors import PullError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LISTING_TIMEOUT_S = 30


def find(
    repo: str,
    *,
    revision: str | None = None,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
) -> Repository:
    """The commit that a revision means, with the list of its files.

    endpoint, cache_dir: default to HF_ENDPOINT and to huggingface_hub's cache. Raises PullError.
    """
    endpoint = endpoint or constants.ENDPOINT
    with _quiet(), _one_line(repo, revision, endpoint):
        info = HfApi(endpoint=endpoint).model_info(
            repo, revision=revision, files_metadata=True, timeout=_LISTING_TIMEOUT_S
        )
        if info.sha is None or info.siblings is None:
            raise ValueError("the listing has no commit or no files")
    return Repository(
        repo=repo,
        commit=info.sha,
        endpoint=endpoint,
        cache_dir=cache_dir or Path(constants.HF_HUB_CACHE),
        files={file.rfilename: file for file in info.siblings},
    )


@dataclass(frozen=True, kw_only=True)
class Repository:
    """One commit of a repository, its files by name, and the cache that they go to."""

    repo: str
    commit: str
    endpoint: str
    cache_dir: Path
    files: dict[str, RepoSibling]

    def fetch(self, name: str) -> Path:
        """The file in the cache, downloaded if need be and checked. Raises PullError."""
        file = self.files[name]
        with _quiet(), _one_line(self.repo, self.commit, self.endpoint):
            if file.lfs is not None and _SHA256.fullmatch(file.lfs.sha256):
                self._fetch_large(file, file.lfs.sha256, file.lfs.size)
            path = hf_hub_download(
                self.repo,
                name,
                revision=self.commit,
                endpoint=self.endpoint,
                cache_dir=self.cache_dir,
            )
            self._check(file, Path(path))
        return Path(path)

    def has_hash(self, name: str) -> bool:
        """Whether the listing tells what a file must be."""
        return _listed_hash(self.files[name]) is not None

    def _fetch_large(self, file: RepoSibling, sha256: str, size: int) -> None:
        """Put a large file that the cache lacks where hf_hub_download finds it."""
        storage = repo_folder_name(repo_id=self.repo, repo_type="model")
        blob = self.cache_dir / storage / "blobs" / sha256
        cached = try_to_load_from_cache(
            self.repo, file.rfilename, cache_dir=self.cache_dir, revision=self.commit
        )
        if isinstance(cached, str) or blob.exists():
            return
        lock = self.cache_dir / ".locks" / storage / f"{sha256}.lock"  # huggingface_hub's own
        for folder in (blob.parent, lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        part = blob.with_name(f"{sha256}.incomplete")
        with WeakFileLock(lock):
            if not blob.exists():
                self._fetch_rest(file, part, size)
                self._check(file, part)
                part.replace(blob)

    def _fetch_rest(self, file: RepoSibling, part: Path, size: int) -> None:
        """Append what is missing, trying again as long as every attempt brings something."""
        url = hf_hub_url(self.repo, file.rfilename, revision=self.commit, endpoint=self.endpoint)
        if _size(part) > size:
            part.unlink()
        while True:
            had = _size(part)
            try:
                with part.open("ab") as whole:
                    http_get(
                        url,
                        whole,
                        resume_size=had,
                        headers=build_hf_headers(),
                        expected_size=size,
                        displayed_filename=file.rfilename,
                    )
                return
            except (OSError, HTTPError):
                if _size(part) <= had:
                    raise

    def _check(self, file: RepoSibling, path: Path) -> None:
        """Compare with the listing's hash; a damaged file goes from the cache."""
        expected = _listed_hash(file)
        if expected is None:
            return
        found = file_sha256(path) if file.lfs else _git_hash(path)
        if found != expected:
            _drop(path)
            kind = "SHA-256" if file.lfs else "git hash"
            raise PullError(
                f"{self.repo}: {file.rfilename} is damaged: its {kind} is {found[:12]}…, "
                f"not {expected[:12]}…; run pull again"
            )


def _listed_hash(file: RepoSibling) -> str | None:
    return file.lfs.sha256 if file.lfs else file.blob_id


def _git_hash(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _drop(path: Path) -> None:
    """Delete a file and the links of the cache that lead to it."""
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink()
        path = target
    path.unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines of huggingface_hub between its progress bars; errors are raised anyway."""
    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


@contextmanager
def _one_line(repo: str, revision: str | None, endpoint: str) -> Iterator[None]:
    """Turn whatever goes wrong with the hub or the cache into a PullError."""
    try:
        yield
    except (OSError, HTTPError, ValueError) as error:
        # huggingface_hub's own words for it are many lines and hide the reason.
        reason = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
        raise PullError(f"{repo}: {_says(reason or error, repo, revision, endpoint)}") from error


def _says(error: BaseException, repo: str, revision: str | None, endpoint: str) -> str:
    match error:
        case GatedRepoError():
            return f"gated; accept its terms at {endpoint}/{repo}, then set HF_TOKEN to your token"
        case RepositoryNotFoundError():
            return f"no such repository at {endpoint}, or a private one; check it, or set HF_TOKEN"
        case RevisionNotFoundError():
            return f"has no revision {revision}; give a branch, tag or commit of it"
        case HFValidationError():
            return "not a repository's name; give it as owner/name"
        case OfflineModeIsEnabled():
            return "cannot be downloaded while HF_HUB_OFFLINE is set; unset it"
        case HfHubHTTPError(response=response) if response.status_code == 401:
            return f"{endpoint} asks who you are; set HF_TOKEN to a token that it accepts"
        case HfHubHTTPError(response=response):
            return f"{endpoint} answered {response.status_code}; try again later"
        case OSError(strerror=str(reason), filename=path):
            where = path or "huggingface_hub's cache"
            return f"{where}: {reason}; make room there, or set HF_HOME to another folder"
        case ValueError():
            return f"{endpoint} does not answer like a hub; check HF_ENDPOINT"
    reason = str(error).split("\n")[0] or type(error).__name__
    return f"{endpoint}: {reason}; check the connection and pull again: it goes on where it stopped"
