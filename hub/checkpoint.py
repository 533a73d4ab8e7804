"""Download a published checkpoint and export it: a bundle made on this machine."""

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
from janus_edge.export.bundle.writer import export_folder
from janus_edge.export.quantization.fastest import fastest_preset
from janus_edge.export.quantization.presets import preset_of
from janus_edge.hub.repository import REPO, Repository, find
from janus_edge.model.config import JanusFlowConfig
from janus_edge.model.files import read_object
from janus_edge.model.published import read_config
from janus_edge.model.weights import VAE_FOLDER, empty_model
from janus_edge.runtime.errors import OptionError, PullError

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


def compile_checkpoint(
    source: Repository,
    folder: Path,
    *,
    vae: str | None,
    roles: str | None,
    quantize: str | None,
    max_length: int | None,
    report: Report,
    note: Report,
    replace: bool,
) -> None:
    """Download a checkpoint and export it; see ``pull.pull``."""
    preset_of(quantize or "fp32")  # refuse an unknown one before gigabytes are downloaded
    checkpoint, autoencoder = download(source, vae=vae, report=report)
    if quantize is None:
        quantize, why = fastest_preset()
        note(f"--quantize {quantize}: {why}; to choose, pull with --quantize fp32, say")
    export_folder(
        checkpoint,
        folder,
        vae=autoencoder,
        roles=roles or ROLES.get(source.repo),
        source=f"{source.repo}@{source.commit}",
        quantize=quantize,
        max_length=max_length,
        report=report,
        replace=replace,
    )


def download(
    source: Repository, *, vae: str | None = None, report: Report
) -> tuple[Path, Path | None]:
    """Download the needed files of a checkpoint, and of its autoencoder.

    Configs are read before any weights: those of another model save the download.

    Args:
        source: The checkpoint's repository.
        vae: Folder or repository of a JanusFlow's autoencoder; None for what the checkpoint holds,
            else VAE_REPO.
        report: Called with a line after each step.

    Returns:
        Folder of the checkpoint, and of the autoencoder; None for the latter if the model draws
        without one.

    Raises:
        PullError: The download failed, or the repository is none of the Janus family.
        OptionError: ``vae`` is of no use, or no folder or repository.
        CheckpointError: ``vae`` is a folder that does not fit.
    """
    names, beside = needed_files(source.files, source.repo, CHECKPOINT), None
    config = _config(source, names[0], CHECKPOINT, read_config)
    check_wanted(config, vae, source.repo)
    if isinstance(config, JanusFlowConfig):
        look = partial(find, endpoint=source.endpoint, cache_dir=source.cache_dir)
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
        paths = of.fetch_all(self.names, report)
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
        if not REPO.fullmatch(vae):
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
