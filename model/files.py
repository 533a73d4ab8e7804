"""A checkpoint's folder and its small files, which others have made: plain files up to a size.

What a folder is instead of a checkpoint (a LoRA adapter, GGUF, a clone without its large files) is
said in one line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from janus_edge.runtime.reading import is_regular, read_regular

MOST_BYTES = {"config.json": 2**24, "tokenizer.json": 2**26}
MOST_INDEX = 2**26  # bytes
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_LFS = b"version https://git-lfs.github.com/spec/"
_GGUF = b"GGUF"


class CheckpointError(Exception):
    """A checkpoint that is missing, damaged or does not fit its config. One line, with the path."""


def checkpoint_folder(path: Path) -> Path:
    """Return the folder that holds ``config.json``: the path, or the snapshot that it leads to.

    Raises CheckpointError for what is no checkpoint.
    """
    if path.is_file():
        check_content(path)
        raise CheckpointError(f"{path}: a file; give the folder that holds it and its config.json")
    path = snapshot_of(path)
    adapter = next((name for name in ADAPTERS if (path / name).exists()), None)
    if adapter is not None:
        raise CheckpointError(
            f"{path}: holds a LoRA adapter ({adapter}), which would not be applied; {MERGE}"
        )
    if not (path / "config.json").exists():
        for file in sorted(path.glob("*.gguf"))[:1]:
            raise CheckpointError(f"{file}: {GGUF}")
    return path


MERGE = (
    "merge it into its base model (peft: merge_and_unload, then save_pretrained) and export that"
)
GGUF = (
    "GGUF, a format of llama.cpp that holds no whole Janus; export the original checkpoint "
    "(safetensors or .bin)"
)


def snapshot_of(cache: Path) -> Path:
    """Return the snapshot in a repository's folder of huggingface_hub's cache; any other path as it
    is.

    Such a folder (``models--OWNER--NAME``) leads to the snapshot that its branch ``main`` names, or
    to its only one. Raises CheckpointError where neither is there.
    """
    if not (cache / "snapshots").is_dir() or (cache / "config.json").exists():
        return cache
    found = sorted(each for each in (cache / "snapshots").iterdir() if each.is_dir())
    main = cache / "refs" / "main"
    if main.is_file():
        commit = read_text(main, 2**10).strip()
        found = [each for each in found if each.name == commit] or found
    if len(found) != 1:
        names = ", ".join(each.name[:12] for each in found) or "none"
        raise CheckpointError(
            f"{cache}: a folder of huggingface_hub's cache with these snapshots: {names}; give the "
            f"one you mean, {cache / 'snapshots'}/…"
        )
    return found[0]


def check_regular(path: Path) -> None:
    """Refuse what is no plain file: a link that leads nowhere, a pipe, a device, a folder.

    Raises CheckpointError, FileNotFoundError.
    """
    if path.is_symlink() and not path.exists():
        raise CheckpointError(
            f"{path}: a link to {path.readlink()}, which is not there; download the file again"
        )
    if not is_regular(path.stat()):
        raise CheckpointError(f"{path}: not a regular file; a checkpoint is made of files")


def check_content(path: Path) -> None:
    """Refuse a file that stands for another, or is of a format that is not read, by its first
    bytes. Raises CheckpointError, OSError."""
    check_regular(path)
    with path.open("rb") as file:
        start = file.read(len(_LFS))
    if start == _LFS:
        raise CheckpointError(
            f'{path}: a Git LFS pointer in place of the file; run "git lfs pull" in its folder, or '
            "download it again"
        )
    if start.startswith(_GGUF):
        raise CheckpointError(f"{path}: {GGUF}")


def read_text(path: Path, most: int | None = None) -> str:
    """Return a file's text, UTF-8 with or without a byte order mark.

    most: bytes; None: what its name is allowed. Raises CheckpointError, OSError, and ValueError
    for what is not UTF-8.
    """
    check_content(path)
    content = read_regular(path, MOST_BYTES[path.name] if most is None else most)
    return content.decode("utf-8-sig")


def read_object(path: Path, most: int | None = None) -> dict[str, Any]:
    """Return the JSON object in a file. Raises as ``read_text``, ValueError for other content."""
    try:
        found = json.loads(read_text(path, most))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    return found
