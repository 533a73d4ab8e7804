"""Open a bundle: find the folder, check the hashes, read the manifest and the tables.

A bundle is found by its path, or by its name in the user's folder, or by its name in the package.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from janus_edge.runtime.arguments import Flag, PathOrName, checked, shown
from janus_edge.runtime.contract import check_contract, table_shapes
from janus_edge.runtime.errors import BundleError, OptionError
from janus_edge.runtime.hash_cache import Check, Stamp, check_changed, check_each, stamp_of
from janus_edge.runtime.limits import MOST_BYTES
from janus_edge.runtime.manifest import Component, Manifest, parse_manifest
from janus_edge.runtime.notes import home_folder
from janus_edge.runtime.prompt import PromptEncoder, PromptTemplate
from janus_edge.runtime.reading import open_regular, read_regular
from janus_edge.runtime.tables import Table

MANIFEST = "manifest.json"
CHECKSUM = "manifest.sha256"  # of manifest.json, which holds the hashes of all other files
SHIPPED = Path(__file__).resolve().parent.parent / "bundles"
DEFAULT = "tiny-things"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
COMPILED = ".cache"  # ends the folder beside a bundle: what TensorRT compiled or timed for it
# Folders of an export that is running or was killed, and of what was compiled for a bundle.
_RESERVED = (".part", ".old", COMPILED)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified bundle: every file is what the manifest says, and the parts fit together.

    Attributes:
        folder: The bundle's folder.
        manifest: The manifest.
        encoder: From prompts to token ids and back.
        tables: The look-up tables by component.
        sha256: Of the manifest, and so of the whole bundle.
        stamps: Of every file of the components and kernels, taken when it was checked.
    """

    folder: Path
    manifest: Manifest
    encoder: PromptEncoder
    tables: dict[str, Table]
    sha256: str
    stamps: dict[str, Stamp]

    def path(self, component: str) -> Path:
        """Return a component file's path. Raises OptionError if there is no such component."""
        return self.folder / self._component(component).file

    def num_bytes(self, component: str) -> int:
        """Return the size of a component's files together, bytes."""
        files = _files_of(self._component(component))
        return sum(self.stamps[name][0] for name, _ in files if name in self.stamps)

    @contextmanager
    def unchanged(self, component: str) -> Iterator[None]:
        """Open a component's files inside this block.

        Engines open when first needed, which may be hours after the bundle was opened and checked.

        Raises:
            BundleError: A file, before or after the block, is not the one that was checked.
        """
        self._check_unchanged(component)
        yield
        self._check_unchanged(component)

    def _check_unchanged(self, component: str) -> None:
        for name, expected in _files_of(self.manifest.components[component]):
            path, stamp = self.folder / name, stamp_of(self.folder / name)
            if stamp is not None and stamp == self.stamps.get(name):
                continue
            try:
                _check_file(path, expected)  # a copy or a link of it is as good
            except BundleError:
                raise BundleError(
                    f"{path}: is another file since the bundle was opened; open the bundle again"
                ) from None
            if stamp is not None:
                self.stamps[name] = stamp

    def _component(self, name: str) -> Component:
        found = self.manifest.components
        if not isinstance(name, str) or name not in found:
            raise OptionError(f"component is {shown(name)}; give one of {', '.join(found)}")
        return found[name]


@checked
def open_bundle(model: PathOrName | None = None, *, check_all: Flag = False) -> Bundle:
    """Open a bundle.

    Args:
        model: The bundle's folder, or the name of a pulled or shipped one; None takes the default.
        check_all: Also hash files that were found right before and have not changed since.

    Raises:
        BundleError: It is missing, damaged or of another version, or does not fit together.
    """
    return _open(find_bundle(model), partial(check_changed, check_all=check_all))


def check_bundle(folder: Path) -> None:
    """Check a bundle as ``open_bundle`` does, every file, and note nothing about it.

    Raises:
        BundleError: It is damaged or of another version, or does not fit together.
    """
    _open(folder, check_each)


def _open(
    folder: Path,
    check_files: Callable[[Path, list[tuple[str, str]], Check], dict[str, Stamp]],
) -> Bundle:
    raw = _read(folder / MANIFEST, MANIFEST)
    sha256 = hashlib.sha256(raw).hexdigest()
    checksum = _read(folder / CHECKSUM, CHECKSUM).decode("ascii", "replace")
    _compare(folder / MANIFEST, f"{sha256}\n", checksum)
    manifest = parse_manifest(raw, str(folder / MANIFEST))
    check_contract(manifest, str(folder / MANIFEST))
    stamps = check_files(folder, _files(manifest), _check_file)
    encoder = _encoder(folder, manifest)
    folder = folder.absolute()  # a process may change its folder before an engine opens
    return Bundle(
        folder=folder,
        manifest=manifest,
        sha256=sha256,
        encoder=encoder,
        tables={
            name: Table(
                folder / manifest.components[name].file, shape, manifest.components[name].weights
            )
            for name, shape in table_shapes(manifest).items()
        },
        stamps=stamps,
    )


def _encoder(folder: Path, manifest: Manifest) -> PromptEncoder:
    path = folder / manifest.tokenizer.file
    raw = _read(path, "tokenizer.json")
    _compare(path, hashlib.sha256(raw).hexdigest(), manifest.tokenizer.sha256)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise BundleError(f"{path}: is no UTF-8; export the bundle again") from None
    encoder = PromptEncoder.load(text, PromptTemplate(**manifest.prompt.model_dump()))
    if encoder.largest_id >= manifest.sizes.vocab_size:
        raise BundleError(
            f"{path}: has a token {encoder.largest_id}, the model {manifest.sizes.vocab_size} "
            "rows for tokens; export the bundle again"
        )
    return encoder


def find_bundle(model: str | Path | None) -> Path:
    """Return the folder that a path or name means. Raises BundleError if there is none."""
    name = DEFAULT if model is None else str(model)
    if model == "":
        raise BundleError("no bundle is named; give a bundle's folder or name")
    own = [bundles_folder() / name] if is_bundle_name(name) else []
    for folder in (Path(name), *own, SHIPPED / name):
        if _is_there(folder / MANIFEST, Path.is_file):
            return folder
    if _is_there(Path(name), Path.is_dir):
        raise BundleError(f"{name}: no {MANIFEST} in this folder; is it a bundle?")
    raise BundleError(f"{name}: no such bundle; give a bundle's folder or a name: {_names()}")


def _is_there(path: Path, is_kind: Callable[[Path], bool]) -> bool:
    """Return False also if a path cannot be examined: a name too long, another user's folder."""
    try:
        return is_kind(path)
    except OSError:
        return False


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A bundle that can be opened by its name. Its hashes have not been checked.

    Attributes:
        name: The bundle's name.
        folder: The bundle's folder.
        is_shipped: True if it is part of the package.
        size_bytes: Of all its files.
        family: "damaged" if a file is missing or the manifest cannot be read.
    """

    name: str
    folder: Path
    is_shipped: bool
    size_bytes: int
    family: str


def list_bundles() -> list[Listed]:
    """Return all bundles that have a name: the shipped ones, then the pulled ones."""
    shipped = [_listed(SHIPPED / name, is_shipped=True) for name in shipped_bundles()]
    return shipped + [_listed(bundles_folder() / name) for name in pulled_bundles()]


def _listed(folder: Path, is_shipped: bool = False) -> Listed:
    family, size = "damaged", 0
    try:
        size = sum(stamp[0] for path in folder.iterdir() if (stamp := stamp_of(path)))
        raw = _read(folder / MANIFEST, MANIFEST)
        manifest = parse_manifest(raw, str(folder / MANIFEST))
        if all(stamp_of(folder / name) for name, _ in _files(manifest)):
            family = manifest.family
    except (OSError, BundleError):  # one damaged bundle must not hide the others
        pass
    return Listed(
        name=folder.name, folder=folder, is_shipped=is_shipped, size_bytes=size, family=family
    )


def shipped_bundles() -> list[str]:
    """Return the names of the bundles inside the package."""
    return _bundles_in(SHIPPED)


def pulled_bundles() -> list[str]:
    """Return the names of the bundles in the user's folder."""
    return _bundles_in(bundles_folder())


def bundles_folder() -> Path:
    """Return the folder of the user's bundles."""
    return home_folder() / "bundles"


def is_bundle_name(name: str) -> bool:
    """Return True if a pulled bundle may have this name: plain, not an unfinished export's."""
    return _NAME.fullmatch(name) is not None and not name.endswith(_RESERVED)


def _bundles_in(folder: Path) -> list[str]:
    try:
        names = [path.name for path in folder.iterdir() if is_bundle_name(path.name)]
    except OSError:  # there are none yet
        return []
    return sorted(name for name in names if _may_be_bundle(folder / name))


def _may_be_bundle(folder: Path) -> bool:
    """Return True if a folder has a manifest, even a broken link, or cannot be read."""
    try:
        return any(path.name == MANIFEST for path in folder.iterdir())
    except PermissionError:
        return True
    except OSError:
        return False


def _names() -> str:
    return ", ".join(shipped_bundles() + pulled_bundles()) or "none"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a regular file, read in pieces, as hex. Raises OSError."""
    with os.fdopen(open_regular(path, MOST_BYTES["component"]), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path, kind: str) -> bytes:
    """Return the content of a file of a kind in ``MOST_BYTES``. Raises BundleError."""
    try:
        return read_regular(path, MOST_BYTES[kind])
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; copy the bundle again") from None


def file_names(manifest: Manifest) -> list[str]:
    """Return the names of a bundle's files, without the manifest and its checksum; each once."""
    return list(dict.fromkeys([manifest.tokenizer.file, *(name for name, _ in _files(manifest))]))


def _files(manifest: Manifest) -> list[tuple[str, str]]:
    """Return name and hash of every file of the components, the kernels and the tokenizer.bin."""
    found = [(kernel.file, kernel.sha256) for kernel in manifest.kernels]
    if manifest.tokenizer_bin is not None:
        found.append((manifest.tokenizer_bin.file, manifest.tokenizer_bin.sha256))
    for part in manifest.components.values():
        found += _files_of(part)
    return found


def _files_of(part: Component) -> list[tuple[str, str]]:
    beside = [] if part.data is None else [(part.data.file, part.data.sha256)]
    return [(part.file, part.sha256), *beside]


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
