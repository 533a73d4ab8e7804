"""A checkpoint's folder and its small files: regular files up to a size, made by others.

If a folder holds something else (a LoRA adapter, GGUF, a clone without its large files), the error
says in one line what it is.
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

    Raises:
        CheckpointError: The path is no checkpoint.
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
    """Return the snapshot in a repository's folder of huggingface_hub's cache.

    Args:
        cache: A folder ``models--OWNER--NAME``; any other path is returned as it is.

    Returns:
        The snapshot that branch ``main`` names, or the only one.

    Raises:
        CheckpointError: There is neither.
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
    """Refuse what is no regular file: a broken link, a pipe, a device, a folder.

    Raises:
        CheckpointError: The path is something else.
        FileNotFoundError: There is nothing.
    """
    if path.is_symlink() and not path.exists():
        raise CheckpointError(
            f"{path}: a link to {path.readlink()}, which is not there; download the file again"
        )
    if not is_regular(path.stat()):
        raise CheckpointError(f"{path}: not a regular file; a checkpoint is made of files")


def check_content(path: Path) -> None:
    """Refuse a file whose first bytes are those of a Git LFS pointer or of GGUF.

    Raises:
        CheckpointError: The file is one of these, or no regular file.
        OSError: The file cannot be read.
    """
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

    Args:
        path: The file.
        most: Largest size in bytes; None for the limit of the file's name in ``MOST_BYTES``.

    Raises:
        CheckpointError: The file is refused by ``check_content``.
        OSError: The file cannot be read or is too large.
        ValueError: The text is not UTF-8.
    """
    check_content(path)
    content = read_regular(path, MOST_BYTES[path.name] if most is None else most)
    return content.decode("utf-8-sig")


def read_object(path: Path, most: int | None = None) -> dict[str, Any]:
    """Return the JSON object in a file.

    Args:
        path: The file.
        most: As in ``read_text``.

    Raises:
        CheckpointError: As in ``read_text``.
        OSError: As in ``read_text``.
        ValueError: The content is not a JSON object in UTF-8.
    """
    try:
        found = json.loads(read_text(path, most))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    return found
