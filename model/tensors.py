"""The tensors of a checkpoint folder: found, described and read one at a time, never all at once.

safetensors or PyTorch's zip format, in one file or in shards with an index. PyTorch files are
opened with ``weights_only=True``: a pickle that wants to run code is refused.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

Shape = tuple[int, ...]


class CheckpointError(Exception):
    """A checkpoint that is missing, damaged or does not fit its config. One line, with the path."""


class _Format(Protocol):
    """How one kind of file is read."""

    def shapes(self, path: Path) -> dict[str, Shape]:
        """Names and shapes, without the data."""

    def read(self, path: Path, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        """Tensors, memory-mapped; the mapping ends when the last of them is gone."""


class _Safetensors:
    def shapes(self, path: Path) -> dict[str, Shape]:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    def read(self, path: Path, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        for name in names:  # opened for each: what was read before can leave memory
            with safe_open(path, "pt") as file:
                yield name, file.get_tensor(name)


class _Pickled:
    def shapes(self, path: Path) -> dict[str, Shape]:
        return {name: tuple(tensor.shape) for name, tensor in self._load(path).items()}

    def read(self, path: Path, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        tensors = self._load(path)
        for name in names:
            yield name, tensors[name]

    def _load(self, path: Path) -> dict[str, Tensor]:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(tensors, dict) or not all(
            isinstance(tensor, Tensor) for tensor in tensors.values()
        ):
            raise CheckpointError(f"{path}: holds more than tensors; give a file of weights")
        return tensors


# Where weights may lie, the first found is taken: index or single file.
_LAYOUTS: tuple[tuple[str, _Format], ...] = (
    ("model.safetensors.index.json", _Safetensors()),
    ("model.safetensors", _Safetensors()),
    ("pytorch_model.bin.index.json", _Pickled()),
    ("pytorch_model.bin", _Pickled()),
    ("diffusion_pytorch_model.safetensors.index.json", _Safetensors()),
    ("diffusion_pytorch_model.safetensors", _Safetensors()),
    ("diffusion_pytorch_model.fp16.safetensors", _Safetensors()),
    ("diffusion_pytorch_model.bin", _Pickled()),
)


@dataclass(frozen=True, kw_only=True)
class TensorFiles:
    """What is where. ``shapes`` by name, and the file of each."""

    first: Path
    shapes: dict[str, Shape]
    files: dict[str, Path]
    format: _Format

    def read(self, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        """Tensors in the dtype they are stored in, file by file. Raises CheckpointError."""
        for path in dict.fromkeys(self.files[name] for name in names):
            with _errors_of(path):
                yield from self.format.read(path, [n for n in names if self.files[n] == path])


def open_tensors(path: Path) -> TensorFiles:
    """The weights in a folder, or one file of them. Raises CheckpointError, naming the file."""
    if path.is_file():
        formats = dict(_LAYOUTS)
        return _gathered(path, [path], formats["model" + path.suffix])
    for name, form in _LAYOUTS:
        first = path / name
        if first.is_file():
            paths = _shards(first) if name.endswith(".json") else [first]
            return _gathered(first, paths, form)
    tried = ", ".join(name for name, _ in _LAYOUTS)
    raise CheckpointError(f"{path}: no weights; looked for {tried}")


def _gathered(first: Path, paths: list[Path], form: _Format) -> TensorFiles:
    shapes: dict[str, Shape] = {}
    files: dict[str, Path] = {}
    for path in paths:
        with _errors_of(path):
            found = form.shapes(path)
        shapes |= found
        files |= dict.fromkeys(found, path)
    return TensorFiles(first=first, shapes=shapes, files=files, format=form)


def _shards(index: Path) -> list[Path]:
    """The files that an index names; they must lie beside it."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{index}: not an index of shards; copy it again") from None
    if any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise CheckpointError(f"{index}: names files outside its folder; copy it again")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{index.parent}: no file {', '.join(missing)}; copy it again")
    return [index.parent / name for name in names]


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Any way a weight file can be wrong, as one line."""
    try:
        yield
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: refused: damaged, or it holds more than tensors; weights are read, never code"
        ) from None
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged: {reason}; copy it again") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; copy it again") from None
