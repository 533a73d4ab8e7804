"""Opening a bundle: find the folder, check the hashes, read the manifest and the tables.

A bundle is found by its path, or by its name in the user's folder, or by its name in the package.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from janus_edge.runtime.checked import check_changed, home_folder
from janus_edge.runtime.errors import BundleError, OutputError
from janus_edge.runtime.manifest import Manifest, parse_manifest
from janus_edge.runtime.prompt import PromptEncoder, PromptTemplate

MANIFEST = "manifest.json"
CHECKSUM = "manifest.sha256"  # of manifest.json, which holds the hashes of all other files
SHIPPED = Path(__file__).resolve().parent.parent / "bundles"
DEFAULT = "tiny-janus"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
COMPILED = ".cache"  # beside a bundle: what a GPU's library has compiled or timed for it
# Folders of an export that is under way or was killed, and what lies beside bundles.
_RESERVED = (".part", ".old", COMPILED)


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

    def num_bytes(self, component: str) -> int:
        """Of a component's files."""
        beside = self.manifest.components[component].data
        size = self.path(component).stat().st_size
        return size if beside is None else size + (self.folder / beside.file).stat().st_size

    def table(self, component: str) -> np.ndarray:
        """A look-up table as stored, float32 or float16, mapped: only rows that are used are read.

        Raises BundleError if it is not the shape it should be.
        """
        path, (output,) = self.path(component), self.manifest.components[component].outputs
        try:
            table = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise BundleError(f"{path}: not an array: {error}; export the bundle again") from None
        if table.shape[1:] != output.shape[1:]:
            raise BundleError(f"{path}: rows are {table.shape[1:]}, not {output.shape[1:]}")
        return table


def open_bundle(model: str | Path | None = None, *, check_all: bool = False) -> Bundle:
    """Open a bundle by its folder, or a pulled or shipped one by its name; None: the default.

    check_all: hash every file, also those that were found right before and not touched since.
    Raises BundleError when it is missing, damaged or of another version.
    """
    folder = find_bundle(model)
    raw = _read(folder / MANIFEST)
    sha256 = hashlib.sha256(raw).hexdigest()
    _compare(folder / MANIFEST, f"{sha256}\n", _read(folder / CHECKSUM).decode("ascii", "replace"))
    manifest = parse_manifest(raw, str(folder / MANIFEST))
    files = _files(manifest)
    if check_all:
        for name, expected in files:
            _check_file(folder / name, expected)
    else:
        check_changed(folder, files, _check_file)
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
    """The folder that a path or name means. Raises BundleError if there is none."""
    name = DEFAULT if model is None else str(model)
    own = [bundles_folder() / name] if is_bundle_name(name) else []
    for folder in (Path(name), *own, SHIPPED / name):
        if (folder / MANIFEST).is_file():
            return folder
    if Path(name).is_dir():
        raise BundleError(f"{name}: no {MANIFEST} in this folder; is it a bundle?")
    raise BundleError(f"{name}: no such bundle; give a bundle's folder or a name: {_names()}")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A bundle that can be opened by its name. Its hashes have not been checked."""

    name: str
    folder: Path
    is_shipped: bool
    size_bytes: int
    family: str  # "unreadable" when the manifest is damaged or of another version


def list_bundles() -> list[Listed]:
    """All bundles that have a name: the shipped ones, then the pulled ones."""
    shipped = [_listed(SHIPPED / name, is_shipped=True) for name in shipped_bundles()]
    return shipped + [_listed(bundles_folder() / name) for name in pulled_bundles()]


def _listed(folder: Path, is_shipped: bool = False) -> Listed:
    try:
        family: str = parse_manifest(_read(folder / MANIFEST), str(folder / MANIFEST)).family
    except BundleError:
        family = "unreadable"
    return Listed(
        name=folder.name,
        folder=folder,
        is_shipped=is_shipped,
        size_bytes=sum(path.stat().st_size for path in folder.iterdir()),
        family=family,
    )


def shipped_bundles() -> list[str]:
    """Names of the bundles inside the package."""
    return _bundles_in(SHIPPED)


def pulled_bundles() -> list[str]:
    """Names of the bundles in the user's folder."""
    return _bundles_in(bundles_folder())


def bundles_folder() -> Path:
    """The user's bundles."""
    return home_folder() / "bundles"


def is_bundle_name(name: str) -> bool:
    """Whether a pulled bundle may have this name: a plain file name, not an unfinished one's."""
    return _NAME.fullmatch(name) is not None and not name.endswith(_RESERVED)


def remove_bundle(name: str) -> None:
    """Delete a pulled bundle. Raises BundleError if there is none, OutputError if it must stay."""
    if name not in pulled_bundles():
        if name in shipped_bundles():
            raise BundleError(f"{name}: part of janus-edge itself; only pulled bundles are removed")
        raise BundleError(f"{name}: no such pulled bundle; there are: {_names(pulled_bundles())}")
    folder = bundles_folder()
    try:
        # First out of sight, so that nobody finds half of it; leftovers of killed removals go too.
        (folder / name).rename(folder / f".{name}.{os.getpid()}.removed")
        for removed in folder.glob(".*.removed"):
            shutil.rmtree(removed)
        shutil.rmtree(folder / f"{name}{COMPILED}", ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{error.filename}: {error.strerror}; delete it by hand") from None


def _bundles_in(folder: Path) -> list[str]:
    names = (path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    return sorted(filter(is_bundle_name, names))


def _names(names: list[str] | None = None) -> str:
    found = shipped_bundles() + pulled_bundles() if names is None else names
    return ", ".join(found) or "none"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; copy the bundle again") from None


def _files(manifest: Manifest) -> list[tuple[str, str]]:
    """Every file of the components and kernels, and the compiled tokenizer, with its hash."""
    found = [(kernel.file, kernel.sha256) for kernel in manifest.kernels]
    if manifest.tokenizer_bin is not None:
        found.append((manifest.tokenizer_bin.file, manifest.tokenizer_bin.sha256))
    for part in manifest.components.values():
        found.append((part.file, part.sha256))
        if part.data is not None:
            found.append((part.data.file, part.data.sha256))
    return found


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
