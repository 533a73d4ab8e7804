"""The decoder as one ONNX graph: all layers, rotary positions, the KV cache inside the contract.

embeds (R, T, D), positions (R, T), lengths (R,) and past keys and values (R, G, M, E) to the final-
normed hidden states (R, T, D) and the same caches, written in place where the caller binds one
buffer as past and present. Caches are float32, or int8 with a scale per channel. ``lengths`` counts
the valid positions after the call, so rolling back is passing a smaller one; ``positions`` only
turn keys and queries, and may leave a gap. Attention and quantized matrix products are lowered to
ONNX Runtime's operators or to standard ones (lowering.py).
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import TensorProto
from torch import nn

from janus_edge.export.graph.builder import Graph, Lowering, Shape, info
from janus_edge.export.quantization.calibrate import CacheScales
from janus_edge.export.quantization.quantize import Packer, QuantSpec
from janus_edge.model.config import LanguageConfig
from janus_edge.model.language import DecoderLayer, rope
from janus_edge.model.weights import Checkpoint, loaded
from janus_edge.runtime.kv_cache import past_names, present_names

PREFIX = "language_model.model."


class DecoderGraph:
    """A decoder's graph in the making: its layers are added one at a time."""

    def __init__(
        self,
        config: LanguageConfig,
        max_length: int,
        lowering: Lowering,
        data: Path | None = None,
        spec: QuantSpec | None = None,
        packer: Packer | None = None,
        tiled: bool = False,
    ) -> None:
        """Begin a graph.

        Args:
            config: Of the language model.
            max_length: Positions of the KV cache at most.
            lowering: To whose operators.
            data: File for the weights beside the graph; None: they lie in the graph.
            spec: How weights are quantized; None: not at all.
            packer: What quantizes them.
            tiled: Whether they lie in tiles in ``data``.
        """
        self._config, self._x = config, "embeds"
        self._graph = Graph(lowering, data, spec, packer, tiled)
        self._cache_type = TensorProto.FLOAT
        with torch.no_grad():
            cos, sin = rope(config, torch.arange(max_length))
        self._graph.weight("cos", cos.numpy())
        self._graph.weight("sin", sin.numpy())
        lowering.prepare(self._graph)

    def add_layer(self, index: int, layer: DecoderLayer, scales: CacheScales | None) -> None:
        """Add a layer. scales: of its int8 cache; None: the cache is float32."""
        if scales is not None:
            self._cache_type = TensorProto.INT8
        self._x = _layer(self._graph, self._x, index, layer, self._config, scales)

    def finish(self, norm: nn.RMSNorm) -> onnx.ModelProto:
        """Add the final norm and return the model; the file of weights is closed."""
        config, layers = self._config, self._config.num_hidden_layers
        self._graph.norm(self._x, "hidden", norm.weight, config.rms_norm_eps)
        cache: Shape = ["R", config.num_key_value_heads, "M", config.head_dim]
        width: Shape = ["R", "T", config.hidden_size]
        inputs = [
            info("embeds", TensorProto.FLOAT, width),
            info("positions", TensorProto.INT64, ["R", "T"]),
            info("lengths", TensorProto.INT64, ["R"]),
            *(info(name, self._cache_type, cache) for name in past_names(layers)),
        ]
        outputs = [
            info("hidden", TensorProto.FLOAT, width),
            *(info(name, self._cache_type, cache) for name in present_names(layers)),
        ]
        return self._graph.model("decoder", inputs, outputs)


def decoder_graph(
    checkpoint: Checkpoint,
    max_length: int,
    lowering: Lowering,
    data: Path | None = None,
    spec: QuantSpec | None = None,
    scales: list[CacheScales] | None = None,
) -> onnx.ModelProto:
    """Return a checkpoint's decoder as a graph; arguments: see ``DecoderGraph``.

    scales: of an int8 cache, one per layer; None: the cache is float32.
    """
    decoder = checkpoint.model.language_model.model
    made = DecoderGraph(decoder.config, max_length, lowering, data, spec)
    for index, layer in enumerate(decoder.layers):
        assert isinstance(layer, DecoderLayer)
        with loaded(checkpoint, f"{PREFIX}layers.{index}."):
            made.add_layer(index, layer, scales[index] if scales else None)
    with loaded(checkpoint, f"{PREFIX}norm."):
        return made.finish(decoder.norm)


def _layer(
    graph: Graph,
    x: str,
    index: int,
    layer: DecoderLayer,
    config: LanguageConfig,
    scales: CacheScales | None,
) -> str:
    at, attention, mlp = f"layers.{index}", layer.self_attn, layer.mlp
    normed = graph.norm(
        x, f"{at}.input_layernorm", layer.input_layernorm.weight, config.rms_norm_eps
    )
    q = graph.linear(normed, f"{at}.q_proj", attention.q_proj.weight)
    k = graph.linear(normed, f"{at}.k_proj", attention.k_proj.weight)
    v = graph.linear(normed, f"{at}.v_proj", attention.v_proj.weight)
    mixed = graph.lowering.attention(graph, index, (q, k, v), config, scales)
    projected = graph.linear(mixed, f"{at}.o_proj", attention.o_proj.weight)
    x = graph.node("Add", [x, projected], [f"{at}.attended"])
    normed = graph.norm(
        x,
        f"{at}.post_attention_layernorm",
        layer.post_attention_layernorm.weight,
        config.rms_norm_eps,
    )
    gate = graph.linear(normed, f"{at}.gate_proj", mlp.gate_proj.weight)
    up = graph.linear(normed, f"{at}.up_proj", mlp.up_proj.weight)
    sigmoid = graph.node("Sigmoid", [gate], [f"{at}.sigmoid"])
    silu = graph.node("Mul", [gate, sigmoid], [f"{at}.silu"])
    gated = graph.node("Mul", [silu, up], [f"{at}.gated"])
    return graph.node(
        "Add", [x, graph.linear(gated, f"{at}.down_proj", mlp.down_proj.weight)], [at]
    )
