"""The manifest's entries of the components that were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from janus_edge.export.graph.component import Component
from janus_edge.export.graph.storage import halve
from janus_edge.export.graph.tiled import place_of, tiles_of
from janus_edge.model.files import CheckpointError
from janus_edge.runtime.bundle import file_sha256
from janus_edge.runtime.manifest import Stored

TARGET, ANY_TARGET = "cpu", "any"  # "any": only standard operators


def graph_entry(
    component: Component,
    proto: Any,
    path: Path,
    data: Path | None,
    weights: str,
    beside: dict[str, Stored] | None = None,
) -> dict[str, Any]:
    """Return a graph's entry in the manifest.

    Args:
        component: The component.
        proto: Its graph.
        path: The graph's file.
        data: The file of weights beside it, or None.
        weights: Dtype of most weights, if they are not quantized.
        beside: What the file has that the graph does not use.
    """
    weights_file = (
        {} if data is None else {"data": {"file": data.name, "sha256": file_sha256(data)}}
    )
    listed: dict[str, Any] = {}
    if component.is_listed:
        listed = {"tensors": _stored(proto) | _dumped(beside or {})}
    if component.constants:
        listed["constants"] = component.constants
    spec = component.spec
    return {
        "file": path.name,
        "sha256": file_sha256(path),
        **weights_file,
        "backend": "onnxruntime",
        "target": TARGET if any(each.domain for each in proto.opset_import) else ANY_TARGET,
        "dtype": "float32",
        "weights": weights if spec is None else spec.dtype,
        "upcast": "load" if data is None or spec else "use",
        "quantization": "none" if spec is None else spec.granularity,
        "inputs": [tensor_entry(value) for value in proto.graph.input],
        "outputs": [tensor_entry(value) for value in proto.graph.output],
        "profile": component.profile,
        **listed,
    }


def _stored(proto: Any) -> dict[str, Any]:
    """Return where the file beside a graph holds each of its weights."""
    tiles = tiles_of(proto.graph)
    found = _dumped(tiles)
    inside = {each.offset for each in tiles.values()}
    for tensor in proto.graph.initializer:
        place = place_of(tensor)
        if place and int(place["offset"]) not in inside:
            found[tensor.name] = {
                "dtype": _DTYPES[tensor.data_type],
                "shape": list(tensor.dims),
                "offset": int(place["offset"]),
            }
    return found


def _dumped(tensors: dict[str, Stored]) -> dict[str, Any]:
    return {
        name: each.model_dump(mode="json", exclude_defaults=True) for name, each in tensors.items()
    }


_DTYPES = {
    **{1: "float32", 10: "float16", 16: "bfloat16"},
    **{2: "uint8", 3: "int8", 6: "int32", 7: "int64"},
}


def tensor_entry(value: Any) -> dict[str, Any]:
    """Return the entry of a graph's input or output."""
    tensor = value.type.tensor_type
    shape = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
    return {"name": value.name, "dtype": _DTYPES[tensor.elem_type], "shape": shape}


def write_table(table: np.ndarray, path: Path) -> dict[str, Any]:
    """Write a look-up table and return its entry in the manifest.

    Raises:
        CheckpointError: It holds what is no finite number as it is stored.
    """
    half = halve(table)
    stored = table if half is None else half
    if not np.isfinite(stored).all():
        raise CheckpointError(
            f"{path.stem}: the checkpoint's table holds what is no finite number, or what is none "
            "as float16; repair the checkpoint, or export it as fp32"
        )
    np.save(path, stored)
    return {
        "file": path.name,
        "sha256": file_sha256(path),
        "backend": "table",
        "target": ANY_TARGET,
        "dtype": "float32",
        "weights": stored.dtype.name,
        "quantization": "none",
        "inputs": [{"name": "index", "dtype": "int64", "shape": ["R"]}],
        "outputs": [{"name": "row", "dtype": "float32", "shape": ["R", *table.shape[1:]]}],
    }
