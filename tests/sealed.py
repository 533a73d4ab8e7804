"""Bundles that were changed by somebody who also wrote down the right hashes: hashes are integrity,
not authenticity, so all that follows must hold without them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from janus_edge.runtime.bundle import SHIPPED

Change = Callable[[dict[str, Any]], Any]


def copy_of(name: str, folder: Path) -> Path:
    """Copy a shipped bundle; its graphs are links, to be replaced, not written to."""
    folder.mkdir(parents=True)
    for path in (SHIPPED / name).iterdir():
        if path.suffix == ".onnx":
            (folder / path.name).symlink_to(path)
        elif path.is_file():
            shutil.copy(path, folder)
    return folder


def write(folder: Path, name: str, content: bytes) -> None:
    """Replace a file, which may be a link."""
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(content)


def seal(folder: Path, change: Change = lambda manifest: None) -> Path:
    """Change the manifest, and write down the hashes of all files as they are now."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for part in _parts(manifest):
        if (folder / part["file"]).is_file():
            part["sha256"] = hashlib.sha256((folder / part["file"]).read_bytes()).hexdigest()
    change(manifest)
    return seal_raw(folder, json.dumps(manifest).encode())


def seal_raw(folder: Path, raw: bytes) -> Path:
    """Write any bytes as the manifest, with the checksum that they have."""
    write(folder, "manifest.json", raw)
    write(folder, "manifest.sha256", f"{hashlib.sha256(raw).hexdigest()}\n".encode())
    return folder


def _parts(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    components = list(manifest["components"].values())
    data = [part["data"] for part in components if part.get("data")]
    return [manifest["tokenizer"], manifest["tokenizer_bin"], *components, *data]
