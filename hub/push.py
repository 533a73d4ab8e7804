"""Push a bundle to the hub, with a card that says what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
)

from janus_edge.hub.card import card, is_pushed, origin_of, read_scores
from janus_edge.hub.ready import holds_bundle
from janus_edge.hub.repository import REPO, Repository, find
from janus_edge.runtime.bundle import CHECKSUM, MANIFEST, file_names, open_bundle
from janus_edge.runtime.errors import BundleError, OutputError, PushError
from janus_edge.runtime.manifest import parse_manifest

README, LICENSE = "README.md", "LICENSE"
Operation = CommitOperationAdd | CommitOperationDelete


def push(
    model: str | Path,
    repo: str,
    *,
    base_model: str | None = None,
    license: str | None = None,
    license_file: Path | None = None,
    scores: Path | None = None,
    is_private: bool = False,
    replace: bool = False,
    report: Callable[[str], None],
    endpoint: str | None = None,
    cache_dir: Path | None = None,
) -> str:
    """Upload a bundle in one commit; return the commit's address.

    Args:
        model: The bundle's folder or name.
        repo: Repository, ``owner/name``; made if there is none.
        base_model: As in ``card.origin_of``.
        license: As in ``card.origin_of``.
        license_file: The licence's text, uploaded as LICENSE.
        scores: As in ``card.read_scores``.
        is_private: Whether a new repository is private.
        replace: Whether to replace the bundle that the repository holds.
        report: Called with a line after each step.
        endpoint: Address of the hub; None for HF_ENDPOINT.
        cache_dir: Folder for what is read of the repository; None for huggingface_hub's cache.

    Raises:
        BundleError: The bundle is damaged.
        OptionError: The licence or the scores are missing.
        PullError: The repository cannot be read.
        PushError: The hub refuses the upload.
        OutputError: The repository holds something that the push would replace.
    """
    if not REPO.fullmatch(repo):  # without an owner the hub would make one of the user's
        raise PushError(f"{repo!r}: not a repository's name; give it as owner/name")
    bundle = open_bundle(model, check_all=True)
    origin = origin_of(bundle, base_model, license)
    text = card(bundle, repo, origin, [] if scores is None else read_scores(scores, bundle))
    if origin.wants_copy and license_file is None:
        report("the DeepSeek Model License asks for a copy of itself: add it by --license-file")
    api = HfApi(endpoint=endpoint or constants.ENDPOINT)
    with _one_line(repo, api.endpoint):
        api.create_repo(repo, private=is_private, exist_ok=True)
        if is_private and not api.repo_info(repo).private:
            raise PushError(
                f"{repo}: is public; make it private on the hub first, or push without --private"
            )
    there = find(repo, endpoint=api.endpoint, cache_dir=cache_dir)
    files = _files(bundle.folder, file_names(bundle.manifest), text, license_file)
    operations = _operations(there, files, replace, report)
    with _one_line(repo, api.endpoint):
        done = api.create_commit(
            repo,
            operations,
            commit_message=f"Upload {bundle.manifest.name}",
            parent_commit=there.commit,
        )
    report(f"{len(operations)} files: {done.commit_url}")
    return done.commit_url


def _files(
    folder: Path, names: list[str], text: str, license_file: Path | None
) -> dict[str, Path | bytes]:
    """Return what is uploaded, by its name in the repository."""
    files: dict[str, Path | bytes] = {name: folder / name for name in (MANIFEST, CHECKSUM, *names)}
    files[README] = text.encode()
    if license_file is not None:
        try:
            files[LICENSE] = license_file.read_bytes()
        except OSError as error:
            raise OutputError(
                f"--license-file {license_file}: {error.strerror}; name a file"
            ) from None
    return files


def _operations(
    there: Repository,
    files: dict[str, Path | bytes],
    replace: bool,
    report: Callable[[str], None],
) -> list[Operation]:
    """Return the commit's changes: nothing that no push made is replaced or deleted."""
    old = _old_bundle(there)
    if old and not replace:
        raise OutputError(f"{there.repo}: holds a bundle already; push with --replace")
    for name, content in list(files.items()):
        if name not in there.files or name in (*old, README):
            continue
        if isinstance(content, bytes) and there.fetch(name).read_bytes() == content:
            continue  # the licence, as it was pushed before
        raise OutputError(
            f"{there.repo}: holds a {name} that is no part of a bundle; push to a repository of "
            "its own, or remove that first"
        )
    if README in there.files and not is_pushed(
        there.fetch(README).read_text(encoding="utf-8", errors="replace")
    ):
        report(f"{README} stays as it is: somebody wrote or changed it")
        del files[README]
    gone = [name for name in old if name in there.files and name not in files]
    added = [CommitOperationAdd(name, content) for name, content in files.items()]
    return [*added, *(CommitOperationDelete(name) for name in gone)]


def _old_bundle(there: Repository) -> list[str]:
    """Return the names of the files of the bundle that a repository holds; empty for none."""
    if not holds_bundle(there):
        return []
    try:
        manifest = parse_manifest(there.fetch(MANIFEST).read_bytes(), MANIFEST)
    except BundleError as error:
        raise OutputError(
            f"{there.repo}: its {MANIFEST} is none that this version knows: {error}"
        ) from None
    return [MANIFEST, CHECKSUM, *file_names(manifest)]


_STATUSES = {
    401: "{endpoint} asks who you are; set HF_TOKEN to a token that may write",
    403: "the token of HF_TOKEN may not write there; take another token or another repository",
    404: "{endpoint} knows no such owner, or you may not write there; check it, and HF_TOKEN",
    409: "somebody else changed it meanwhile; push again",
    412: "somebody else changed it meanwhile; push again",
}


@contextmanager
def _one_line(repo: str, endpoint: str) -> Iterator[None]:
    """Turn whatever goes wrong with an upload into a PushError."""
    try:
        yield
    except HFValidationError:
        raise PushError(f"{repo!r}: not a repository's name; give it as owner/name") from None
    except OfflineModeIsEnabled:
        raise PushError(
            f"{repo}: nothing is pushed while HF_HUB_OFFLINE is set; unset it"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        words = _STATUSES.get(status, f"{{endpoint}} answered {status}; try again later")
        raise PushError(f"{repo}: {words.format(endpoint=endpoint)}") from error
    except (OSError, HTTPError, ValueError, LookupError, RuntimeError) as error:
        cause = error.__cause__ or error
        reason = str(cause).split("\n")[0] or type(cause).__name__
        raise PushError(f"{repo}: {endpoint}: {reason}; push again") from error
