"""Remove a pulled bundle: what janus-edge wrote and nothing else."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from janus_edge.runtime.bundle import COMPILED, bundles_folder, pulled_bundles, shipped_bundles
from janus_edge.runtime.errors import BundleError, OutputError
from janus_edge.runtime.files import private_folder, sync_folder

_IN_BUNDLES = re.compile(
    r"manifest\.(json|sha256)|tokenizer\.(json|bin)|\w[\w.-]*\.(onnx|data|npy|engine|cubin)|\.DS_Store"
)
_COMPILED = re.compile(r"[^/]+\.bin|timings[^/]*")  # what TensorRT keeps beside a bundle


def foreign(folder: Path) -> str | None:
    """Return the name of a file in a bundle's folder that no export writes there, if any."""
    names = sorted(path.name for path in folder.iterdir() if not _is_ours(path))
    return names[0] if names else None


def _is_ours(path: Path) -> bool:
    return _IN_BUNDLES.fullmatch(path.name) is not None and (path.is_symlink() or path.is_file())


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
