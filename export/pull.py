"""Pulling a published checkpoint: downloaded, then exported into the user's folder."""

from __future__ import annotations

import re
from pathlib import Path

from janus_edge.export.bundle import export_folder
from janus_edge.export.hub import Report, download
from janus_edge.runtime.bundle import MANIFEST, bundles_folder, is_bundle_name, shipped_bundles
from janus_edge.runtime.errors import OptionError, OutputError, PullError


def pull(
    repo: str,
    *,
    revision: str | None = None,
    name: str | None = None,
    max_length: int | None = None,
    report: Report,
    replace: bool = False,
) -> Path:
    """Download a repository and export it into the user's folder; returns the bundle's folder.

    revision: branch, tag or commit. name: of the bundle; default: the repository's, in lower case.
    max_length: positions of the KV cache. report: called with a line after each step.
    Raises PullError when the download fails, OutputError when there is such a bundle already (and
    replace is False), and what the export raises.
    """
    folder = _bundle_folder(repo, name, replace)
    checkpoint = download(repo, revision=revision, report=report)
    export_folder(checkpoint, folder, max_length=max_length, report=report, replace=replace)
    return folder


def _bundle_folder(repo: str, name: str | None, replace: bool) -> Path:
    """Where the bundle will be, after checking that it may be there."""
    if name is None:
        name = re.sub(r"[^a-z0-9._-]+", "-", repo.rsplit("/", 1)[-1].lower())
        if not is_bundle_name(name):
            raise PullError(f"{repo!r}: not a repository's name; give it as owner/name")
    if not is_bundle_name(name):
        raise OptionError(f"{name!r} cannot be a bundle's name; choose letters and digits: --name")
    if name in shipped_bundles():
        raise OutputError(f"{name}: a shipped bundle has this name; choose another with --name")
    folder = bundles_folder() / name
    if folder.exists() and not (replace and (folder / MANIFEST).is_file()):
        raise OutputError(f"{folder}: already there; pull with --replace, or choose another --name")
    return folder
