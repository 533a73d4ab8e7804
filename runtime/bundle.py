"""Opening a bundle: find the folder, check every hash, read the manifest and the tables."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from janus_edge.runtime.errors import BundleError
from janus_edge.runtime.manifest import Manifest, parse_manifest
from janus_edge.runtime.prompt import PromptEncoder, PromptTemplate

MANIFEST = "manifest.json"
CHECKSUM = "manifest.sha256"  # of manifest.json, which holds the hashes of all other files
SHIPPED = Path(__file__).resolve().parent.parent / "bundles"
DEFAULT = "tiny-janus"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified bundle: every file is what the manifest says."""

    folder: Path
    manifest: Manifest
    encoder: PromptEncoder
    sha256: str  # of the manifest, and so of everything

    def path(self, component: str) -> Path:
        """Where a component's file is."""
        return self.folder / self.manifest.components[component].file

    def table(self, component: str) -> np.ndarray:
        """A look-up table as float32. Raises BundleError if it is not the shape it should be."""
        path, (output,) = self.path(component), self.manifest.components[component].outputs
        try:
            table = np.load(path, allow_pickle=False).astype(np.float32)
        except ValueError as error:
            raise BundleError(f"{path}: not an array: {error}; export the bundle again") from None
        if table.shape[1:] != output.shape[1:]:
            raise BundleError(f"{path}: rows are {table.shape[1:]}, not {output.shape[1:]}")
        return table


def open_bundle(model: str | Path | None = None) -> Bundle:
    """Open a bundle folder, or one that ships with the package by its name; None: the default.

    Raises BundleError when it is missing, damaged or of another version.
    """
    folder = find_bundle(model)
    raw = _read(folder / MANIFEST)
    sha256 = hashlib.sha256(raw).hexdigest()
    _compare(folder / MANIFEST, f"{sha256}\n", _read(folder / CHECKSUM).decode("ascii", "replace"))
    manifest = parse_manifest(raw, str(folder / MANIFEST))
    for part in manifest.components.values():
        _check_file(folder / part.file, part.sha256)
    tokenizer = _read(folder / manifest.tokenizer.file)
    found = hashlib.sha256(tokenizer).hexdigest()
    _compare(folder / manifest.tokenizer.file, found, manifest.tokenizer.sha256)
    template = PromptTemplate(**manifest.prompt.model_dump())
    return Bundle(
        folder=folder,
        manifest=manifest,
        sha256=sha256,
        encoder=PromptEncoder.load(tokenizer.decode(), template),
    )


def find_bundle(model: str | Path | None) -> Path:
    """The folder that a name or path means. Raises BundleError if there is none."""
    name = DEFAULT if model is None else str(model)
    for folder in (Path(name), SHIPPED / name):
        if (folder / MANIFEST).is_file():
            return folder
    shipped = ", ".join(shipped_bundles()) or "none"
    if Path(name).is_dir():
        raise BundleError(f"{name}: no {MANIFEST} in this folder; is it a bundle?")
    raise BundleError(f"{name}: no such bundle; give a bundle's folder or a shipped one: {shipped}")


def shipped_bundles() -> list[str]:
    """Names of the bundles inside the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{MANIFEST}"))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; copy the bundle again") from None


def _check_file(path: Path, expected: str) -> None:
    try:
        found = file_sha256(path)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; copy the bundle again") from None
    _compare(path, found, expected)


def _compare(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise BundleError(
            f"{path}: damaged: its SHA-256 is {found[:12]}…, not {expected[:12]}…; "
            "copy the bundle again"
        )
