"""Writing a bundle: every component exported and checked, then the folder appears whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from janus_edge.export.components import Component, graph_components, save_graph, tables
from janus_edge.export.parity import check_parity
from janus_edge.export.preview import fit_preview, random_codes
from janus_edge.export.storage import fits_half, store_halves
from janus_edge.model.config import JanusConfig
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime.bundle import CHECKSUM, MANIFEST, file_sha256
from janus_edge.runtime.errors import OutputError
from janus_edge.runtime.manifest import FORMAT, parse_manifest
from janus_edge.runtime.prompt import TOKEN_STRINGS

TARGET = "cpu"
Report = Callable[[str], None]


def export_bundle(
    checkpoint: Checkpoint, folder: Path, *, max_length: int, report: Report, replace: bool = False
) -> None:
    """Compile a checkpoint into a bundle folder.

    max_length: positions of the KV cache. report: called with a line after each component.
    Raises ParityError when a component differs from PyTorch, OutputError when the folder exists
    (and replace is False) or cannot be written, ValueError when max_length holds no picture.
    """
    config = checkpoint.model.config
    if max_length < config.num_codes + 16:
        raise ValueError(f"max_length {max_length} has no room for {config.num_codes} codes")
    if folder.exists() and not (replace and (folder / MANIFEST).is_file()):
        raise OutputError(f"{folder}: already there; name another folder, or replace a bundle")
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"{part}: {error.strerror}; choose a folder you can write") from None
    try:
        _write_parts(checkpoint, part, folder.name, max_length, report)
        _swap(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_parts(
    checkpoint: Checkpoint, part: Path, name: str, max_length: int, report: Report
) -> None:
    model = checkpoint.model
    entries: dict[str, dict[str, Any]] = {}
    for component in graph_components(model, max_length):
        path = part / f"{component.name}.onnx"
        proto = component.build()
        weights = store_halves(proto)
        save_graph(proto, path)
        error = check_parity(component, path)
        entries[component.name] = _graph_entry(component, proto, path, weights)
        report(f"{component.name}: {path.stat().st_size / 1e6:.2f} MB, error {error:.1e}")
    preview = fit_preview(model.gen_vision_model, _preview_codes(checkpoint))
    for table_name, table in (tables(model) | {"preview": preview}).items():
        path = part / f"{table_name}.npy"
        entries[table_name] = _write_table(table, path)
        report(f"{table_name}: {path.stat().st_size / 1e6:.2f} MB, table {table.shape}")
    (part / "tokenizer.json").write_text(checkpoint.tokenizer_json)
    _write_manifest(checkpoint, part, name, max_length, entries)


def _preview_codes(checkpoint: Checkpoint) -> torch.Tensor:
    if checkpoint.sample_codes is not None:
        return torch.from_numpy(checkpoint.sample_codes)
    config = checkpoint.model.config
    return random_codes(config.codebook.size, config.num_codes)


def _write_manifest(
    checkpoint: Checkpoint, part: Path, name: str, max_length: int, entries: dict[str, Any]
) -> None:
    manifest = {
        "format": FORMAT,
        "family": "janus",
        "name": name,
        "created_by": f"janus-edge {version('janus-edge')}",
        "sizes": _sizes(checkpoint.model.config, max_length),
        "prompt": checkpoint.prompt,
        "sampling": checkpoint.sampling,
        "special_tokens": TOKEN_STRINGS,
        "tokenizer": {
            "file": "tokenizer.json",
            "sha256": file_sha256(part / "tokenizer.json"),
        },
        "components": entries,
    }
    raw = (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()
    parse_manifest(raw, MANIFEST)  # never write one that the runtime would refuse
    (part / MANIFEST).write_bytes(raw)
    (part / CHECKSUM).write_text(file_sha256(part / MANIFEST) + "\n")


def _sizes(config: JanusConfig, max_length: int) -> dict[str, int]:
    language = config.language
    return {
        "hidden_size": language.hidden_size,
        "vocab_size": language.vocab_size,
        "num_layers": language.num_hidden_layers,
        "num_kv_heads": language.num_key_value_heads,
        "head_dim": language.head_dim,
        "max_length": max_length,
        "image_size": config.vision.image_size,
        "num_image_tokens": config.vision.num_patches,
        "code_grid": config.code_grid,
        "codebook_size": config.codebook.size,
    }


def _graph_entry(component: Component, proto: Any, path: Path, weights: str) -> dict[str, Any]:
    return {
        "file": path.name,
        "sha256": file_sha256(path),
        "backend": "onnxruntime",
        "target": TARGET,
        "dtype": "float32",
        "weights": weights,
        "quantization": "none",
        "inputs": [_tensor(value) for value in proto.graph.input],
        "outputs": [_tensor(value) for value in proto.graph.output],
        "profile": component.profile,
    }


_DTYPES = {1: "float32", 6: "int32", 7: "int64"}


def _tensor(value: Any) -> dict[str, Any]:
    tensor = value.type.tensor_type
    shape = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
    return {"name": value.name, "dtype": _DTYPES[tensor.elem_type], "shape": shape}


def _write_table(table: np.ndarray, path: Path) -> dict[str, Any]:
    stored = table.astype(np.float16) if fits_half(table) else table
    np.save(path, stored)
    return {
        "file": path.name,
        "sha256": file_sha256(path),
        "backend": "table",
        "target": TARGET,
        "dtype": "float32",
        "weights": stored.dtype.name,
        "quantization": "none",
        "inputs": [{"name": "index", "dtype": "int64", "shape": ["R"]}],
        "outputs": [{"name": "row", "dtype": "float32", "shape": ["R", *table.shape[1:]]}],
    }


def _swap(part: Path, folder: Path) -> None:
    """Put the finished folder in place; an old one goes only after the new one stands."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
