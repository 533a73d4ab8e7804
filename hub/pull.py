"""Pull a model from the hub into the user's folder: a ready bundle, or a checkpoint to export."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from janus_edge.hub.ready import holds_bundle, pull_bundle
from janus_edge.hub.repository import REPO, find
from janus_edge.runtime.bundle import MANIFEST, bundles_folder, is_bundle_name, shipped_bundles
from janus_edge.runtime.errors import OptionError, OutputError, PullError
from janus_edge.runtime.place import check_place

Report = Callable[[str], None]


def pull(
    repo: str,
    *,
    vae: str | None = None,
    revision: str | None = None,
    name: str | None = None,
    roles: str | None = None,
    quantize: str | None = None,
    max_length: int | None = None,
    report: Report,
    note: Report | None = None,
    replace: bool = False,
) -> Path:
    """Download a repository into the user's folder of bundles; return the bundle's folder.

    A bundle is taken as it is, without PyTorch. A checkpoint is exported; so is that of a
    repository that holds both, if an option says how.

    Args:
        repo: Repository, ``owner/name``.
        vae: Autoencoder of a JanusFlow, as in ``checkpoint.download``.
        revision: Branch, tag or commit; None for the newest.
        name: Name of the bundle; None for the repository's, in lower case.
        roles: As in ``export_folder``; None for what the repository needs.
        quantize: Preset; None for what this machine runs fastest.
        max_length: Positions of the KV cache; None for the model's most.
        report: Called with a line after each step.
        note: Called with a line on what was chosen by default; None for ``report``.
        replace: Whether to replace a bundle of this name.

    Raises:
        PullError: The download failed, or the repository holds no model of the Janus family.
        OptionError: An option does not fit.
        OutputError: There is such a bundle already, or it cannot be written.
        CheckpointError: The checkpoint is damaged or does not fit its config.
        ParityError: A component does not match PyTorch.
    """
    if not REPO.fullmatch(repo):
        raise PullError(f"{repo!r}: not a repository's name; give it as owner/name")
    folder = _bundle_folder(repo, name, replace)
    given = {"--vae": vae, "--roles": roles, "--quantize": quantize, "--max-length": max_length}
    options = [option for option, value in given.items() if value is not None]
    source = find(repo, revision=revision)
    if holds_bundle(source) and not (options and "config.json" in source.files):
        if options:
            raise OptionError(
                f"{repo}: holds a ready bundle and no checkpoint; pull without {options[0]}"
            )
        pull_bundle(source, folder, replace=replace, report=report)
        return folder
    from janus_edge.hub.checkpoint import compile_checkpoint  # needs PyTorch

    compile_checkpoint(
        source,
        folder,
        vae=vae,
        roles=roles,
        quantize=quantize,
        max_length=max_length,
        report=report,
        note=note or report,
        replace=replace,
    )
    return folder


def _bundle_folder(repo: str, name: str | None, replace: bool) -> Path:
    """Return where the bundle will be, after checking that it may be there."""
    if name is None:
        name = re.sub(r"[^a-z0-9._-]+", "-", repo.rsplit("/", 1)[-1].lower())
    if not is_bundle_name(name):
        raise OptionError(f"{name!r} cannot be a bundle's name; choose letters and digits: --name")
    if name in shipped_bundles():
        raise OutputError(f"{name}: a shipped bundle has this name; choose another with --name")
    folder = bundles_folder() / name
    if folder.exists() and not (replace and (folder / MANIFEST).is_file()):
        raise OutputError(f"{folder}: already there; pull with --replace, or choose another --name")
    check_place(folder, replace)
    return folder
