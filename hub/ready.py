"""Pull a ready bundle: its files are downloaded, checked as at every opening, and put in place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from janus_edge.hub.repository import Repository
from janus_edge.runtime.bundle import CHECKSUM, MANIFEST, check_bundle, file_names
from janus_edge.runtime.errors import BundleError, PullError
from janus_edge.runtime.files import link_or_copy
from janus_edge.runtime.manifest import parse_manifest
from janus_edge.runtime.place import replacing


def holds_bundle(source: Repository) -> bool:
    """Return True if a repository holds a bundle: a manifest and its checksum."""
    return {MANIFEST, CHECKSUM} <= source.files.keys()


def pull_bundle(
    source: Repository, folder: Path, *, replace: bool, report: Callable[[str], None]
) -> None:
    """Download the bundle that a repository holds.

    The files stay in huggingface_hub's cache, and the bundle is made of links to them where the
    file system can link: it takes the space once.

    Args:
        source: The repository.
        folder: Where the bundle is put.
        replace: Whether to replace a bundle that is there.
        report: Called with a line after each step.

    Raises:
        PullError: The download failed, or what came is no bundle that this version can open.
        OutputError: The folder cannot be written.
    """
    paths = source.fetch_all([MANIFEST, CHECKSUM, *_listed(source)], report)
    with replacing(folder, replace) as part:
        for path in paths:
            link_or_copy(path, part / path.name)
        try:
            check_bundle(part)
        except BundleError as error:
            reason = str(error).replace(f"{part}{os.sep}", "")
            raise PullError(f"{source.repo}: no bundle that can be used: {reason}") from None
    size = sum(path.stat().st_size for path in paths)
    report(f"bundle: {size / 1e6:.2f} MB, every hash right, stays in {paths[0].parent}, too")


def _listed(source: Repository) -> list[str]:
    """Return the other files that the manifest names. Raises PullError."""
    try:
        names = file_names(parse_manifest(source.fetch(MANIFEST).read_bytes(), MANIFEST))
    except BundleError as error:
        raise PullError(f"{source.repo}: no bundle that can be used: {error}") from None
    if missing := [name for name in names if name not in source.files]:
        raise PullError(
            f"{source.repo}: has no {missing[0]}, which its {MANIFEST} names; "
            "ask its author to push the bundle again"
        )
    return names
