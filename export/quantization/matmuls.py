"""Quantize the weights of a traced graph's matmuls, as a built graph's are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from janus_edge.export.graph.builder import Graph, Lowering, opsets_of
from janus_edge.export.quantization.quantize import QuantSpec


def quantize_matmuls(
    proto: onnx.ModelProto,
    spec: QuantSpec,
    lowering: Lowering,
    data: Path | None = None,
    layers: Callable[[], Mapping[str, np.ndarray]] | None = None,
) -> onnx.ModelProto:
    """Return the model with every matmul with a constant matrix quantized, the rest as it was.

    Args:
        proto: The model.
        spec: How weights are quantized.
        lowering: To which operators.
        data: A file in which the quantized weights are put in tiles, if ``layers`` is given.
        layers: Returns the weights (O, I) of layers, by the names that they get in the file. None:
            the weights lie in the graph.
    """
    graph = proto.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    beside = None if layers is None else data
    made = Graph(lowering, beside, spec, tiled=beside is not None)
    names = {} if layers is None else dict(layers())
    for node in graph.node:
        found = _weight_and_bias(node, weights)
        if found is None:
            made.nodes.append(node)
        else:
            weight_OI, bias_O = (None if x is None else torch.from_numpy(x) for x in found)
            assert weight_OI is not None
            name = _named(weight_OI.numpy(), names) or node.output[0]
            made.linear(node.input[0], name, weight_OI, bias_O, node.output[0])
    made.close()
    used = {name for node in made.nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    body = helper.make_graph(
        made.nodes, graph.name, graph.input, graph.output, [*kept, *made.initializers]
    )
    (standard,) = (known.version for known in proto.opset_import if not known.domain)
    opsets = opsets_of(made.nodes, standard)
    return helper.make_model(body, opset_imports=opsets, ir_version=proto.ir_version)


def _named(weight_OI: np.ndarray, names: dict[str, np.ndarray]) -> str | None:
    """Return the name of a layer with this weight, and take it out of the names."""
    for name, each in names.items():
        if np.array_equal(each, weight_OI):
            del names[name]
            return name
    return None


def _weight_and_bias(
    node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]
) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Return weight (O, I) and bias (O,) of a linear layer's matmul; None for any other node."""
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights:
        return None
    weight = numpy_helper.to_array(weights[node.input[1]]).copy()
    if weight.ndim != 2:
        return None
    options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    transposed = options.pop("transB", 0)
    if options not in ({}, {"alpha": 1.0, "beta": 1.0, "transA": 0}):
        return None
    bias = numpy_helper.to_array(weights[node.input[2]]).copy() if len(node.input) > 2 else None
    return (weight if transposed else weight.T), bias
