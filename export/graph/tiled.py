"""Which weights of a graph lie in tiles in the file beside it (``Graph.blocks``)."""

from __future__ import annotations

from typing import Any

import onnx

from janus_edge.runtime.manifest import Stored
from janus_edge.runtime.tiles import dtype_of


def place_of(tensor: onnx.TensorProto) -> dict[str, str]:
    """Return where an initializer lies, by key: location, offset, length. Empty: in the graph."""
    return {entry.key: entry.value for entry in tensor.external_data}


def tiles_of(graph: Any) -> dict[str, Stored]:
    """Return the weights in tiles by name: both initializers of a matmul have their place."""
    places = {tensor.name: place_of(tensor) for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type != "MatMulNBits":
            continue
        quantized, scales = (places.get(name, {}) for name in node.input[1:3])
        if quantized and quantized == scales:
            about = {each.name: each.i for each in node.attribute}
            name = f"{node.input[1].removesuffix('.quantized')}.tiles"
            dtype: Any = dtype_of(about["bits"], about["block_size"])
            found[name] = Stored(
                dtype=dtype,
                shape=(about["N"], about["K"]),
                offset=int(quantized["offset"]),
            )
    return found
