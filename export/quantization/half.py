"""Half precision (fp16 or bf16) where it pays: matmuls, convolutions and attention.

Everything else stays in float32, among it norms, sums of residuals and what surrounds softmax. A
graph's inputs and outputs keep their types, except keys and values, which are stored in half
precision.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from ml_dtypes import bfloat16
from onnx import TensorProto, helper, numpy_helper

from janus_edge.runtime.kv_cache import is_cache

# Operators that compute in half precision, with the inputs that are converted.
_HALF_INPUTS = {
    "Attention": (0, 1, 2),
    "Conv": (0, 1, 2),
    "DequantizeLinear": (1,),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "TensorScatter": (0, 1),
}
ATTENTION = frozenset({"Attention"})  # TensorRT has no float32 kernel for it
EVERYTHING = frozenset(_HALF_INPUTS)
HALF_TYPES = {
    "float16": (TensorProto.FLOAT16, np.dtype(np.float16)),
    "bfloat16": (TensorProto.BFLOAT16, np.dtype(bfloat16)),
}


def to_half(
    proto: onnx.ModelProto, dtype: str, operators: frozenset[str] = EVERYTHING
) -> onnx.ModelProto:
    """Return the model with some operators in half precision.

    Args:
        proto: The model. Its float32 weights must be in the graph, not beside it.
        dtype: "float16" or "bfloat16".
        operators: Which operators to convert.
    """
    return _HalfConversion(proto.graph, dtype, operators).model(proto)


def keep_casts(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with an Identity on the half-precision side of every cast.

    ONNX Runtime's CPU provider computes most half-precision operators in float32, between casts of
    its own, and removes pairs of casts. Without the Identity nothing would be rounded, and no
    overflow would show.
    """
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    del made.graph.node[:]
    for node in proto.graph.node:
        if node.op_type != "Cast":
            made.graph.node.append(node)
            continue
        (to,) = (helper.get_attribute_value(a) for a in node.attribute)
        (given,), (result,) = node.input, node.output
        same = f"{result}.same"
        if to == TensorProto.FLOAT:
            made.graph.node.append(helper.make_node("Identity", [given], [same]))
            made.graph.node.append(helper.make_node("Cast", [same], [result], to=to))
        else:
            made.graph.node.append(helper.make_node("Cast", [given], [same], to=to))
            made.graph.node.append(helper.make_node("Identity", [same], [result]))
    return made


class _HalfConversion:
    """The new graph while it is made. ``_converted``: a tensor's converted form by its name."""

    def __init__(self, graph: onnx.GraphProto, dtype: str, operators: frozenset[str]) -> None:
        """Find the graph's weights and caches.

        Args:
            graph: The graph to convert.
            dtype: A name of ``HALF_TYPES``.
            operators: Which operators to convert.
        """
        self._graph, self._operators = graph, operators
        self._type, self._numpy = HALF_TYPES[dtype]
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._upcast = {
            node.output[0]: node.input[0]
            for node in graph.node
            if node.op_type == "Cast" and node.input[0] in self._weights
        }
        self._nodes: list[onnx.NodeProto] = []
        self._made: list[onnx.TensorProto] = []
        self._converted = {value.name: value.name for value in graph.input if is_cache(value.name)}

    def model(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        """Rewrite all nodes, and leave out casts and weights that no node reads any more."""
        for node in self._graph.node:
            self._rewrite(node)
        ends = [value.name for value in self._graph.output]
        nodes = _needed(self._nodes, ends)
        used = {name for node in nodes for name in node.input}
        weights = [w for w in (*self._graph.initializer, *self._made) if w.name in used]
        body = helper.make_graph(
            nodes,
            self._graph.name,
            [self._end(value) for value in self._graph.input],
            [self._end(value) for value in self._graph.output],
            weights,
        )
        return helper.make_model(
            body, opset_imports=proto.opset_import, ir_version=proto.ir_version
        )

    def _rewrite(self, node: onnx.NodeProto) -> None:
        """Add a node to the new graph, in half precision if its operator is one of those."""
        if node.op_type not in self._operators:
            self._nodes.append(node)
            return
        inputs = list(node.input)
        for place in _HALF_INPUTS[node.op_type]:
            if place < len(inputs) and inputs[place]:
                inputs[place] = self._half(inputs[place])
        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.input[:] = inputs
        self._nodes.append(made)
        for place, name in enumerate(node.output):
            if is_cache(name):
                self._converted[name] = name
            else:
                half = made.output[place] = self._converted[name] = f"{name}.halved"
                self._nodes.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))

    def _half(self, name: str) -> str:
        """Return the name of a tensor's half-precision form, made when it is first needed."""
        if name in self._converted:
            return self._converted[name]
        stored = self._weights.get(self._upcast.get(name, name))
        half = self._converted[name] = f"{name}.halved"
        if stored is not None and stored.data_location != TensorProto.EXTERNAL:
            array = numpy_helper.to_array(stored).astype(np.float32).astype(self._numpy)
            self._made.append(numpy_helper.from_array(array, half))
        elif stored is not None and stored.data_type == self._type:
            self._converted[name] = stored.name
        else:
            self._nodes.append(helper.make_node("Cast", [name], [half], to=self._type))
        return self._converted[name]

    def _end(self, value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
        made = onnx.ValueInfoProto()
        made.CopyFrom(value)
        if is_cache(value.name):
            made.type.tensor_type.elem_type = self._type
        return made


def _needed(nodes: list[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Return the nodes that the outputs depend on."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]
