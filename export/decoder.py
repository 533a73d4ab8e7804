"""The decoder as one ONNX graph: all layers, rotary positions, the KV cache inside the contract.

embeds (R, T, D), positions (R, T), lengths (R,) and past keys and values (R, G, M, E) to the
final-normed hidden states (R, T, D) and the same caches, written in place where the caller binds
one buffer as past and present. ``lengths`` counts the valid positions after the call, so rolling
back is passing a smaller one. Attention is lowered to ONNX Runtime's GroupQueryAttention.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from janus_edge.model.config import LanguageConfig
from janus_edge.model.language import Decoder, DecoderLayer, rope

OPSET = 24
IR_VERSION = 11
MICROSOFT = "com.microsoft"

Shape = list[str | int]


class _Graph:
    """Nodes and initializers in the making; every call returns the name of what it made."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, array: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(
        self, op: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any
    ) -> str:
        self.nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def linear(self, x: str, name: str, module: torch.nn.Linear) -> str:
        weight = self.constant(f"{name}.weight", module.weight.detach().numpy().T)
        return self.node("MatMul", [x, weight], [name])

    def norm(self, x: str, name: str, module: torch.nn.RMSNorm, epsilon: float) -> str:
        weight = self.constant(f"{name}.weight", module.weight.detach().numpy())
        return self.node("RMSNormalization", [x, weight], [name], axis=-1, epsilon=epsilon)


def decoder_graph(decoder: Decoder, max_length: int) -> onnx.ModelProto:
    """Build the graph of a decoder for caches of at most ``max_length`` positions."""
    config, graph = decoder.config, _Graph()
    with torch.no_grad():
        cos, sin = rope(config, torch.arange(max_length))
    shared = [
        *_lengths(graph),
        graph.constant("cos", cos.numpy()),
        graph.constant("sin", sin.numpy()),
    ]
    x = "embeds"
    for index, layer in enumerate(decoder.layers):
        assert isinstance(layer, DecoderLayer)
        x = _layer(graph, x, index, layer, config, shared)
    graph.norm(x, "hidden", decoder.norm, config.rms_norm_eps)
    cache: Shape = ["R", config.num_key_value_heads, "M", config.head_dim]
    names = [f"{part}_{index}" for index in range(config.num_hidden_layers) for part in "kv"]
    width: Shape = ["R", "T", config.hidden_size]
    inputs = [
        _info("embeds", TensorProto.FLOAT, width),
        _info("positions", TensorProto.INT64, ["R", "T"]),
        _info("lengths", TensorProto.INT64, ["R"]),
        *(_info(f"past_{name}", TensorProto.FLOAT, cache) for name in names),
    ]
    outputs = [
        _info("hidden", TensorProto.FLOAT, width),
        *(_info(f"present_{name}", TensorProto.FLOAT, cache) for name in names),
    ]
    body = helper.make_graph(graph.nodes, "decoder", inputs, outputs, graph.initializers)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION)


def _layer(
    graph: _Graph,
    x: str,
    index: int,
    layer: DecoderLayer,
    config: LanguageConfig,
    shared: list[str],
) -> str:
    at, attention, mlp = f"layers.{index}", layer.self_attn, layer.mlp
    normed = graph.norm(x, f"{at}.input_layernorm", layer.input_layernorm, config.rms_norm_eps)
    q = graph.linear(normed, f"{at}.q_proj", attention.q_proj)
    k = graph.linear(normed, f"{at}.k_proj", attention.k_proj)
    v = graph.linear(normed, f"{at}.v_proj", attention.v_proj)
    mixed = graph.node(
        "GroupQueryAttention",
        [q, k, v, f"past_k_{index}", f"past_v_{index}", *shared, "positions"],
        [f"{at}.attention", f"present_k_{index}", f"present_v_{index}"],
        domain=MICROSOFT,
        num_heads=config.num_attention_heads,
        kv_num_heads=config.num_key_value_heads,
        do_rotary=1,
    )
    projected = graph.linear(mixed, f"{at}.o_proj", attention.o_proj)
    x = graph.node("Add", [x, projected], [f"{at}.attended"])
    normed = graph.norm(
        x, f"{at}.post_attention_layernorm", layer.post_attention_layernorm, config.rms_norm_eps
    )
    gate = graph.linear(normed, f"{at}.gate_proj", mlp.gate_proj)
    up = graph.linear(normed, f"{at}.up_proj", mlp.up_proj)
    sigmoid = graph.node("Sigmoid", [gate], [f"{at}.sigmoid"])
    silu = graph.node("Mul", [gate, sigmoid], [f"{at}.silu"])
    gated = graph.node("Mul", [silu, up], [f"{at}.gated"])
    return graph.node("Add", [x, graph.linear(gated, f"{at}.down_proj", mlp.down_proj)], [at])


def _lengths(graph: _Graph) -> list[str]:
    """What GroupQueryAttention asks for: each row's last index, and the longest row, as int32."""
    narrow = graph.node("Cast", ["lengths"], ["lengths_i32"], to=TensorProto.INT32)
    one = graph.constant("one", np.array(1, np.int32))
    last = graph.node("Sub", [narrow, one], ["last_index"])
    longest = graph.node("ReduceMax", [narrow], ["longest"], keepdims=0)
    return [last, longest]


def _info(name: str, dtype: int, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)
