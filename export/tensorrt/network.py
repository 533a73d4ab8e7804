"""Compare what TensorRT's parser made of a graph with the graph, and complete it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx

from janus_edge.export.graph.parity import ParityError

FUSED_HEADS = range(32, 257)  # head widths that have one attention kernel (docs/log.md)


def check_network(trt: Any, network: Any, proto: onnx.ModelProto) -> None:
    """Compare what was parsed with the graph.

    An engine cannot be opened where there is no driver, and a parser may leave out what it does not
    know: it ignores Attention's lengths, and might ignore the mask.

    Args:
        trt: The TensorRT module.
        network: What the parser made.
        proto: The graph.

    Raises:
        ParityError: They differ.
    """
    types = {1: trt.float32, 10: trt.float16, 16: trt.bfloat16, 7: trt.int64}
    for values, count, get in (
        (proto.graph.input, network.num_inputs, network.get_input),
        (proto.graph.output, network.num_outputs, network.get_output),
    ):
        found = {(t.name, t.dtype, tuple(t.shape)) for t in map(get, range(count))}
        wanted = {(v.name, types[v.type.tensor_type.elem_type], _shape(v)) for v in values}
        if found != wanted:
            name = min(name for name, *_ in found ^ wanted)
            raise ParityError(f"{name}: {trt.__name__} has parsed it as another input or output")
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    made = Counter(layer.type for layer in layers)
    for operator, kind in (
        ("Attention", trt.LayerType.ATTENTION_INPUT),
        ("TensorScatter", trt.LayerType.KV_CACHE_UPDATE),
        ("RotaryEmbedding", trt.LayerType.ROTARY_EMBEDDING),
    ):
        wanted_count = sum(node.op_type == operator for node in proto.graph.node)
        if made[kind] != wanted_count:
            raise ParityError(
                f"{proto.graph.name}: {trt.__name__} has {made[kind]} of {wanted_count} {operator}"
            )
    masks = sum(node.op_type == "Attention" and len(node.input) > 3 for node in proto.graph.node)
    kept = sum(attention.mask is not None for attention in attentions(trt, network))
    if kept != masks:
        raise ParityError(f"{proto.graph.name}: {trt.__name__} has {kept} of {masks} masks")


def limit_attention(trt: Any, network: Any) -> None:
    """Give attention on caches the number of filled positions, so that a kernel reads no more.

    The parser ignores this input of the graph. Attention with heads that no fused kernel takes,
    such as a VQ decoder's of 512, may become several kernels. Any other attention that would is an
    error of the build.

    Args:
        trt: The TensorRT module.
        network: What the parser made; changed in place.
    """
    inputs = map(network.get_input, range(network.num_inputs))
    lengths = {tensor.name: tensor for tensor in inputs}.get("lengths")
    filled = None if lengths is None else network.add_cast(lengths, trt.int32).get_output(0)
    for attention in attentions(trt, network):
        attention.decomposable = attention.get_input(0).shape[-1] not in FUSED_HEADS
        if filled is not None:
            attention.key_value_lengths = filled


def attentions(trt: Any, network: Any) -> list[Any]:
    """Return all attentions of a network."""
    found = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer  # how TensorRT casts a layer to its kind
            found.append(layer.attention)
    return found


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return a shape in TensorRT's form: -1 for a size that varies."""
    dims = value.type.tensor_type.shape.dim
    return tuple(-1 if dim.dim_param else dim.dim_value for dim in dims)
