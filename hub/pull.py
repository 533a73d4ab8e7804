"""Pull a published checkpoint: download it, then export it into the user's folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from janus_edge.export.bundle.autoencoder import (
    UNREADABLE,
    VAE_REPO,
    check_fit,
    check_wanted,
)
from janus_edge.export.bundle.writer import check_place, export_folder
from janus_edge.export.quantization.fastest import fastest_preset
from janus_edge.export.quantization.presets import preset_of
from janus_edge.hub.repository import Repository, find
from janus_edge.model.config import JanusFlowConfig
from janus_edge.model.files import read_object
from janus_edge.model.published import read_config
from janus_edge.model.weights import VAE_FOLDER, empty_model
from janus_edge.runtime.bundle import MANIFEST, bundles_folder, is_bundle_name, shipped_bundles
from janus_edge.runtime.errors import OptionError, OutputError, PullError

Report = Callable[[str], None]
Read = TypeVar("Read")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is read of a kind of repository.

    Attributes:
        needed: Files that it must have, the config first.
        also: Files that are read if they exist.
        weights: Names of weight files by format, best first; only one format is downloaded.
        what: What such a repository is, for errors.
        advice: What to do about another repository, for errors.
    """

    needed: tuple[str, ...]
    also: tuple[str, ...] = ()
    weights: tuple[re.Pattern[str], ...]
    what: str
    advice: str


CHECKPOINT = Kind(
    needed=("config.json", "tokenizer.json"),
    also=(
        "tokenizer_config.json",
        "special_tokens_map.json",
        "processor_config.json",
        "preprocessor_config.json",
        "generation_config.json",
        "samples.npy",
    ),
    weights=(
        re.compile(r"model[^/]*\.safetensors(\.index\.json)?"),
        re.compile(r"pytorch_model[^/]*\.bin(\.index\.json)?"),
    ),
    what="a checkpoint of the Janus family",
    advice="pull a checkpoint of the Janus family",
)
# The fp16 file holds the same weights, rounded. Ours computes in fp32 and prefers the fp32 file.
AUTOENCODER = Kind(
    needed=("config.json",),
    weights=(
        re.compile(r"diffusion_pytorch_model\.safetensors"),
        re.compile(r"diffusion_pytorch_model\.fp16\.safetensors"),
        re.compile(r"diffusion_pytorch_model\.bin"),
    ),
    what="an autoencoder in diffusers' format",
    advice=f"name another with --vae, as {VAE_REPO}",
)
ROLES = {"deepseek-ai/Janus-1.3B": "janus"}  # its config is Janus-Pro-1B's (docs/models.md)
_REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*")


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
    """Download a repository and export it into the user's folder; return the bundle's folder.

    Args:
        repo: Repository, ``owner/name``.
        vae: Autoencoder of a JanusFlow, as in ``download``.
        revision: Branch, tag or commit; None for the newest.
        name: Name of the bundle; None for the repository's, in lower case.
        roles: As in ``export_folder``; None for what the repository needs.
        quantize: Preset; None for what this machine runs fastest.
        max_length: Positions of the KV cache; None for the model's most.
        report: Called with a line after each step.
        note: Called with a line on what was chosen by default; None for ``report``.
        replace: Whether to replace a bundle of this name.

    Raises:
        PullError: The download failed, or the repository is none of the Janus family.
        OptionError: An option does not fit.
        OutputError: There is such a bundle already, or it cannot be written.
        CheckpointError: The checkpoint is damaged or does not fit its config.
        ParityError: A component does not match PyTorch.
    """
    folder = _bundle_folder(repo, name, replace)
    preset_of(quantize or "fp32")  # refuse an unknown one before gigabytes are downloaded
    checkpoint, autoencoder = download(repo, vae=vae, revision=revision, report=report)
    if quantize is None:
        quantize, why = fastest_preset()
        (note or report)(f"--quantize {quantize}: {why}; to choose, pull with --quantize fp32, say")
    export_folder(
        checkpoint,
        folder,
        vae=autoencoder,
        roles=roles or ROLES.get(repo),
        quantize=quantize,
        max_length=max_length,
        report=report,
        replace=replace,
    )
    return folder


def download(
    repo: str,
    *,
    vae: str | None = None,
    revision: str | None = None,
    report: Report,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
) -> tuple[Path, Path | None]:
    """Download the needed files of one commit of a checkpoint, and of its autoencoder.

    Configs are read before any weights: those of another model save the download.

    Args:
        repo: Repository, ``owner/name``.
        vae: Folder or repository of a JanusFlow's autoencoder; None for what the checkpoint holds,
            else VAE_REPO.
        revision: Branch, tag or commit; None for the newest.
        report: Called with a line after each step.
        endpoint: Address of the hub; None for HF_ENDPOINT.
        cache_dir: Folder to download to; None for huggingface_hub's cache.

    Returns:
        Folder of the checkpoint, and of the autoencoder; None for the latter if the model draws
        without one.

    Raises:
        PullError: The download failed, or the repository is none of the Janus family.
        OptionError: ``vae`` is of no use, or no folder or repository.
        CheckpointError: ``vae`` is a folder that does not fit.
    """
    look = partial(find, endpoint=endpoint, cache_dir=cache_dir)
    source = look(repo, revision=revision)
    names, beside = needed_files(source.files, repo, CHECKPOINT), None
    config = _config(source, names[0], CHECKPOINT, read_config)
    check_wanted(config, vae, repo)
    if isinstance(config, JanusFlowConfig):
        beside = _autoencoder(config, vae, source, look, report)
    folder = _Part(source, names, "checkpoint").fetch(report)
    return folder, beside.fetch(report) if isinstance(beside, _Part) else beside


def needed_files(names: Iterable[str], repo: str, kind: Kind, folder: str = "") -> list[str]:
    """Return the files to read of a kind of repository, the small files first.

    Args:
        names: Names of all files.
        repo: Repository, for errors.
        kind: What to read.
        folder: Folder in the repository, with its slash; empty for the top.

    Raises:
        PullError: A file is missing.
    """
    found = {name.removeprefix(folder) for name in names if name.startswith(folder)}
    for missing in kind.needed:
        if missing not in found:
            raise PullError(f"{repo}: has no {folder}{missing}; is it {kind.what}?")
    small = [folder + name for name in (*kind.needed, *kind.also) if name in found]
    for weights in kind.weights:
        matching = sorted(filter(weights.fullmatch, found))
        if any(not name.endswith(".json") for name in matching):
            return small + [folder + name for name in matching]
    where = f" in {folder}" if folder else ""
    raise PullError(
        f"{repo}: has no weights in safetensors or PyTorch format{where}; {kind.advice}"
    )


@dataclass(frozen=True)
class _Part:
    """Files in one folder of a repository, and what they are together."""

    source: Repository
    names: list[str]
    what: str

    def fetch(self, report: Report) -> Path:
        """Download the files and return their folder; raise PullError."""
        of = self.source
        report(f"{of.repo}: commit {of.commit}, {len(self.names)} of {len(of.files)} files")
        paths = [of.fetch(name) for name in self.names]
        for name in self.names:
            if not of.has_hash(name):
                report(f"{of.repo}: {name} not checked, as {of.endpoint} gives no hash of it")
        size = sum(path.stat().st_size for path in paths)
        report(f"{self.what}: {size / 1e6:.2f} MB, stays in {paths[0].parent}")
        return paths[0].parent


def _autoencoder(
    config: JanusFlowConfig,
    vae: str | None,
    checkpoint: Repository,
    look: Callable[[str], Repository],
    report: Report,
) -> _Part | Path:
    """Return the autoencoder that a JanusFlow is to draw with, after checking that it fits."""
    if vae is not None and Path(vae).exists():
        empty_model(config, Path(vae))
        return Path(vae)
    source, folder = checkpoint, f"{VAE_FOLDER}/"
    if vae is not None or f"{folder}config.json" not in checkpoint.files:
        vae, folder = vae or VAE_REPO, ""
        if not _REPO.fullmatch(vae):
            raise OptionError(f"{vae}: no such folder or file; give --vae one, or owner/name")
        report(f"{checkpoint.repo}: a JanusFlow, drawing with the autoencoder {vae}")
        source = look(vae)
    names = needed_files(source.files, source.repo, AUTOENCODER, folder)
    _config(source, names[0], AUTOENCODER, partial(check_fit, config))
    return _Part(source, names, "autoencoder")


def _config(source: Repository, name: str, kind: Kind, read: Callable[[Any], Read]) -> Read:
    """Return what ``read`` makes of a config; raise PullError if it is of another model."""
    try:
        return read(read_object(source.fetch(name)))
    except UNREADABLE as error:
        raise PullError(f"{source.repo}: {name}: {error}; {kind.advice}") from None


def _bundle_folder(repo: str, name: str | None, replace: bool) -> Path:
    """Return where the bundle will be, after checking that it may be there."""
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
    check_place(folder, replace)
    return folder
