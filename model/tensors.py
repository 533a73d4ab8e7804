"""The tensors of a checkpoint folder: found, described and read one at a time, never all at once.

Formats: safetensors or PyTorch's, in one file or in shards with an index. PyTorch files are opened
with ``weights_only=True``: a pickle that wants to run code is refused.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from janus_edge.model.files import MOST_INDEX, check_content, check_regular, read_object
from janus_edge.model.files import CheckpointError as CheckpointError

Shape = tuple[int, ...]
_ZIP = b"PK\x03\x04"  # how PyTorch's format begins since 1.6
_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
)  # keys under which trainers store the weights


class Described(NamedTuple):
    """Shape and dtype of a tensor, without its data."""

    shape: Shape
    dtype: str  # as the file's format calls it


class _Format(Protocol):
    """How one kind of file is read."""

    def describe(self, path: Path) -> dict[str, Described]:
        """Return the shapes and dtypes of a file's tensors by name."""

    def read(self, path: Path, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield tensors, memory-mapped; the mapping ends when the last of them is freed."""


class _Safetensors:
    """Reader of safetensors files."""

    def describe(self, path: Path) -> dict[str, Described]:
        found = {}
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_slice(name)
                found[name] = Described(tuple(tensor.get_shape()), tensor.get_dtype())
        return found

    def read(self, path: Path, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        for name in names:  # opened for each, so that earlier tensors can be freed
            with safe_open(path, "pt") as file:
                yield name, file.get_tensor(name)


class _Pickled:
    """Reader of PyTorch's files, without running code."""

    def describe(self, path: Path) -> dict[str, Described]:
        return {
            name: Described(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in self._load(path).items()
        }

    def read(self, path: Path, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        tensors = self._load(path)
        for name in names:
            yield name, tensors[name]

    def _load(self, path: Path) -> dict[str, Tensor]:
        """Return all tensors of a file, without what trainers wrap around them."""
        with path.open("rb") as file:
            is_zip = file.read(len(_ZIP)) == _ZIP  # the older format cannot be mapped
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        for wrapper in _WRAPPERS:
            if isinstance(found, dict) and _are_tensors(found.get(wrapper)):
                return found[wrapper]
        if not _are_tensors(found):
            raise CheckpointError(f"{path}: holds more than tensors; give a file of weights")
        return found


def _are_tensors(found: object) -> bool:
    """Return True for a dictionary of tensors that is not empty."""
    if not isinstance(found, dict) or not found:
        return False
    return all(isinstance(n, str) and isinstance(t, Tensor) for n, t in found.items())


# Names of weight files, single file or index; the first that exists is read. The order is that of
# transformers: saving one file deletes the shards that were there, and leaves their index.
_LAYOUTS: tuple[tuple[str, _Format], ...] = (
    ("model.safetensors", _Safetensors()),
    ("model.safetensors.index.json", _Safetensors()),
    ("pytorch_model.bin", _Pickled()),
    ("pytorch_model.bin.index.json", _Pickled()),
    ("diffusion_pytorch_model.safetensors", _Safetensors()),
    ("diffusion_pytorch_model.safetensors.index.json", _Safetensors()),
    ("diffusion_pytorch_model.fp16.safetensors", _Safetensors()),
    ("diffusion_pytorch_model.bin", _Pickled()),
)
_SUFFIXES: dict[str, _Format] = {
    ".safetensors": _Safetensors(),
    ".bin": _Pickled(),
    ".pt": _Pickled(),
    ".pth": _Pickled(),
    ".ckpt": _Pickled(),
}


@dataclass(frozen=True, kw_only=True)
class TensorFiles:
    """The tensors of a folder or file.

    Attributes:
        first: The file that was found first: the index, or the only file.
        shapes: Shape of each tensor by name.
        dtypes: Dtype of each tensor by name, as its format calls it.
        files: File of each tensor by name.
        format: How the files are read.
    """

    first: Path
    shapes: dict[str, Shape]
    dtypes: dict[str, str]
    files: dict[str, Path]
    format: _Format

    def read(self, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield tensors in the dtype they are stored in, file by file.

        Raises:
            CheckpointError: A file is damaged or cannot be read.
        """
        for path in dict.fromkeys(self.files[name] for name in names):
            with _errors_of(path):
                yield from self.format.read(path, [n for n in names if self.files[n] == path])


def open_tensors(path: Path) -> TensorFiles:
    """Return the tensors of a folder or of one file of weights.

    Raises:
        CheckpointError: There are no weights, or a file is damaged; the error names the file.
    """
    if path.is_file():
        if path.suffix not in _SUFFIXES:
            check_content(path)
            raise CheckpointError(f"{path}: not weights; known are {', '.join(_SUFFIXES)}")
        return _gathered(path, [path], _SUFFIXES[path.suffix])
    for name, form in _LAYOUTS:
        first = path / name
        if first.exists() or first.is_symlink():
            check_regular(first)
            paths = _shards(first) if name.endswith(".json") else [first]
            return _gathered(first, paths, form)
    raise CheckpointError(f"{path}: {_without_weights(path)}")


def _without_weights(path: Path) -> str:
    """Return what a folder without readable weights has instead, as text for an error."""
    for name, _ in _LAYOUTS:
        stem, _, suffix = name.removesuffix(".index.json").rpartition(".")
        shards = sorted(path.glob(f"{stem}-*-of-*.{suffix}"))
        if shards:
            index = f"{stem}.{suffix}.index.json"
            return f"has {shards[0].name}, but not the shards' index {index}; copy it, too"
    for file in sorted(path.glob("*.gguf"))[:1]:
        check_content(file)
    return f"no weights; looked for {', '.join(name for name, _ in _LAYOUTS)}"


def _gathered(first: Path, paths: list[Path], form: _Format) -> TensorFiles:
    """Return the tensors of all files, described but not read."""
    found: dict[str, Described] = {}
    files: dict[str, Path] = {}
    for path in paths:
        with _errors_of(path):
            check_content(path)
            described = form.describe(path)
        found |= described
        files |= dict.fromkeys(described, path)
    return TensorFiles(
        first=first,
        shapes={name: tensor.shape for name, tensor in found.items()},
        dtypes={name: tensor.dtype for name, tensor in found.items()},
        files=files,
        format=form,
    )


def _shards(index: Path) -> list[Path]:
    """Return the files that an index names; they must lie beside it."""
    try:
        names = sorted(set(read_object(index, MOST_INDEX)["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{index}: not an index of shards; copy it again") from None
    if any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise CheckpointError(f"{index}: names files outside its folder; copy it again")
    shards = [index.parent / name for name in names]
    for shard in shards:
        if shard.is_symlink():
            check_regular(shard)
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointError(f"{index.parent}: no file {', '.join(missing)}; copy it again")
    return shards


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Turn anything that can be wrong with a weight file into a one-line CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: refused: damaged, or it holds more than tensors; weights are read, never code"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; copy it again") from None
    except Exception as error:  # damaged bytes end in IndexError, struct.error, AttributeError, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged: {reason}; copy it again") from None
