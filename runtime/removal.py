"""Remove a pulled bundle: what janus-edge wrote and nothing else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from janus_edge.runtime.bundle import (
    CHECKSUM,
    COMPILED,
    MANIFEST,
    bundles_folder,
    pulled_bundles,
    shipped_bundles,
)
from janus_edge.runtime.errors import BundleError, OutputError
from janus_edge.runtime.files import private_folder, sync_folder
from janus_edge.runtime.json_text import parse_json
from janus_edge.runtime.limits import MOST_BYTES
from janus_edge.runtime.manifest import COMPONENTS, OPTIONAL
from janus_edge.runtime.reading import read_regular

_PARTS = "|".join(sorted({*chain(*COMPONENTS.values(), *OPTIONAL.values())}))
_WRITTEN = re.compile(  # by an export, by name: in a bundle whose manifest is damaged
    rf"manifest\.(json|sha256)|tokenizer\.(json|bin)|({_PARTS})\.(onnx|data|npy|engine)"
    r"|[a-z_]+\.sm_\d+\.cubin|\.DS_Store"
)
# What TensorRT keeps beside a bundle.
_COMPILED = re.compile(rf"({_PARTS})-[^/]+-\d[\w.]*\.bin|timings\.bin")


def foreign(folder: Path) -> str | None:
    """Return the name of a file in a folder that is no part of a bundle of ours, if any."""
    is_own = _ownership(folder)
    paths = sorted(folder.iterdir())
    others = (p for p in paths if not (is_own(p.name) and (p.is_symlink() or p.is_file())))
    return next((path.name for path in others), None)


def _ownership(folder: Path) -> Callable[[str], bool]:
    """Return which names in a folder are ours: those that its manifest names, if that is ours.

    A manifest is ours if its checksum fits. If it does not, the folder may be a damaged bundle of
    ours, which has a checksum.
    """
    try:
        names = MANIFEST, CHECKSUM
        raw, checksum = (read_regular(folder / name, MOST_BYTES[name]) for name in names)
        if checksum.decode("ascii").strip() == hashlib.sha256(raw).hexdigest():
            return {MANIFEST, CHECKSUM, ".DS_Store", *_named(parse_json(raw))}.__contains__
        is_damaged = re.fullmatch(rb"[0-9a-f]{64}\s*", checksum) is not None
    except (OSError, ValueError, RecursionError):
        is_damaged = False
    return lambda name: is_damaged and _WRITTEN.fullmatch(name) is not None


def _named(document: object) -> Iterator[str]:
    """Yield the files that a manifest names, whatever its version."""
    if isinstance(document, dict):
        if isinstance(name := document.get("file"), str):
            yield name
        document = list(document.values())
    if isinstance(document, list):
        for each in document:
            yield from _named(each)


def remove_bundle(name: str) -> None:
    """Delete a pulled bundle.

    Raises:
        BundleError: There is no such pulled bundle.
        OutputError: The folder holds other files, or cannot be deleted.
    """
    folder = bundles_folder()
    with suppress(OSError), private_folder(folder):
        pass  # this removes what a killed removal left, even if the bundle itself is gone
    there = pulled_bundles()
    if name not in there:
        if name in shipped_bundles():
            raise BundleError(f"{name}: part of janus-edge itself; only pulled bundles are removed")
        known = ", ".join(there) or "none"
        raise BundleError(f"{name}: no such pulled bundle; there are: {known}")
    try:
        _check_foreign(folder / name)
        # Rename it first, so that nobody finds half of a bundle.
        with private_folder(folder, target=name) as room:
            (folder / name).rename(room / "removed")
            sync_folder(folder)
    except OSError as error:
        raise OutputError(f"{error.filename}: {error.strerror}; delete it by hand") from None
    _remove_compiled(folder / f"{name}{COMPILED}")


def _check_foreign(folder: Path) -> None:
    if (other := foreign(folder)) is not None:
        raise OutputError(
            f"{folder}: not removed, as it holds {other}, which is no part of a bundle; "
            "move that away"
        )


def _remove_compiled(folder: Path) -> None:
    """Remove what was compiled for a bundle; keep the folder if it holds anything else."""
    with suppress(OSError):
        for path in folder.iterdir():
            if _COMPILED.fullmatch(path.name) and path.is_file():
                path.unlink()
        folder.rmdir()
