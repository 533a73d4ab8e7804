"""The decoder as one ONNX graph: all layers, rotary positions, KV caches as inputs and outputs.

Inputs are embeds (R, T, D), positions (R, T), lengths (R,) and past keys and values (R, G, M, E).
Outputs are the final-normed hidden states (R, T, D) and the same caches, written in place if the
caller binds one buffer as past and present. Caches are float32, or int8 with one scale per channel.

``lengths`` counts the valid positions after the call, so a smaller one rolls back. ``positions``
only rotate keys and queries, and may leave a gap. Attention and quantized matmuls are lowered to
ONNX Runtime's operators or to standard ones (export/graph/lowering.py).

Layers are loaded one at a time, both for the graph and for PyTorch's answer to the examples: a
checkpoint's weights need not fit into memory.
"""

from __future__ import annotations

from functools import cache as once
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto

from janus_edge.export.graph.builder import Graph, Lowering, Shape, info
from janus_edge.export.graph.component import Component, Feeds, Ranges
from janus_edge.export.graph.lowering import LOWERINGS
from janus_edge.export.quantization.calibrate import (
    CacheScales,
    QuantizedCache,
    cache_scales,
    sequences,
)
from janus_edge.export.quantization.quantize import PRESETS, Preset, QuantSpec, fake_quantized
from janus_edge.model.config import LanguageConfig
from janus_edge.model.language import DecoderLayer, LayerCache, rope
from janus_edge.model.weights import Checkpoint, loaded
from janus_edge.runtime.kv_cache import past_names, present_names
from janus_edge.runtime.manifest import PREFILL

_PREFIX = "language_model.model."
PROMPT_LENGTH = 640  # positions: an image that is asked about or drawn by a flow, and some text
CHECKED_LENGTH = 64  # the most positions of the caches that parity is checked with


def decoder_components(
    checkpoint: Checkpoint, max_length: int, preset: Preset = PRESETS["fp32"]
) -> list[Component]:
    """Return the decoder, and its copy for prefill if the preset has one.

    The copy has the same inputs, outputs and caches.

    Args:
        checkpoint: The checkpoint.
        max_length: The most positions of the caches.
        preset: How weights and caches are stored.
    """
    config, cache = checkpoint.model.config.language, preset.cache

    @once
    def scales() -> list[CacheScales] | None:
        return cache_scales(checkpoint) if cache == "int8" else None

    def made(name: str, spec: QuantSpec | None) -> Component:
        return Component(
            name=name,
            outputs=("hidden", *present_names(config.num_hidden_layers)),
            profile={
                "R": (1, 2, 16),
                "T": (1, 1, max_length),
                "M": (1, max_length, max_length),
            },
            uses=_uses(max_length),
            parameters=(),
            cuts=tuple(f"layers.{i}" for i in range(3, config.num_hidden_layers - 1, 4)),
            num_weights=sum(
                parameter.numel()
                for name, parameter in checkpoint.model.named_parameters()
                if name.startswith(f"{_PREFIX}layers.")
            ),
            build=lambda data: decoder_graph(
                checkpoint, max_length, LOWERINGS[preset.lowering], data, spec, scales()
            ),
            examples=lambda: _examples(checkpoint, min(max_length, CHECKED_LENGTH), cache),
            references=lambda examples, fake_quantize=False: _references(
                checkpoint, examples, spec if fake_quantize else None, scales(), fake_quantize
            ),
            spec=spec,
            is_quantized=spec is not None or cache != "float32",
            is_listed=spec == QuantSpec(bits=4, block_size=128) and cache == "int8",
        )

    found = [made("decoder", preset.decoder)]
    return [*found, made(PREFILL, preset.prefill)] if preset.prefill else found


def _uses(max_length: int) -> dict[str, Ranges]:
    """Return the ranges of R, T and M: of a prompt or a flow's latent, and of a decode step."""
    rows, slots = (1, 2, 16), (max_length,) * 3
    lengths = {
        "prefill": (1, min(PROMPT_LENGTH, max_length), max_length),
        "step": (1, 1, 1),
    }
    return {name: {"R": rows, "T": length, "M": slots} for name, length in lengths.items()}


def decoder_graph(
    checkpoint: Checkpoint,
    max_length: int,
    lowering: Lowering,
    data: Path | None = None,
    spec: QuantSpec | None = None,
    scales: list[CacheScales] | None = None,
) -> onnx.ModelProto:
    """Build the decoder's graph.

    Args:
        checkpoint: The checkpoint; its layers are loaded one at a time.
        max_length: The most positions of the caches.
        lowering: To which operators.
        data: See ``Graph``.
        spec: See ``Graph``.
        scales: Of 8-bit caches, for each layer; None for float32 caches.
    """
    decoder, graph = checkpoint.model.language_model.model, Graph(lowering, data, spec)
    config = decoder.config
    with torch.no_grad():
        cos, sin = rope(config, torch.arange(max_length))
    graph.weight("cos", cos.numpy())
    graph.weight("sin", sin.numpy())
    lowering.prepare(graph)
    x = "embeds"
    for index, layer in enumerate(decoder.layers):
        assert isinstance(layer, DecoderLayer)
        with loaded(checkpoint, f"{_PREFIX}layers.{index}."):
            own = scales[index] if scales else None
            x = _layer(graph, x, index, layer, config, own)
    with loaded(checkpoint, f"{_PREFIX}norm."):
        graph.norm(x, "hidden", decoder.norm.weight, config.rms_norm_eps)
    cache: Shape = ["R", config.num_key_value_heads, "M", config.head_dim]
    layers, cached = config.num_hidden_layers, TensorProto.INT8 if scales else TensorProto.FLOAT
    width: Shape = ["R", "T", config.hidden_size]
    inputs = [
        info("embeds", TensorProto.FLOAT, width),
        info("positions", TensorProto.INT64, ["R", "T"]),
        info("lengths", TensorProto.INT64, ["R"]),
        *(info(name, cached, cache) for name in past_names(layers)),
    ]
    outputs = [
        info("hidden", TensorProto.FLOAT, width),
        *(info(name, cached, cache) for name in present_names(layers)),
    ]
    return graph.model("decoder", inputs, outputs)


def _layer(
    graph: Graph,
    x: str,
    index: int,
    layer: DecoderLayer,
    config: LanguageConfig,
    scales: CacheScales | None,
) -> str:
    """Add a layer and return the name of its result."""
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


def _examples(checkpoint: Checkpoint, length: int, cached: str) -> list[Feeds]:
    """Return a prefill, a step after it, a step of a single row, and several positions after a gap.

    The embeddings are of a kind that the decoder will see: keys and values of others go beyond the
    range of a calibrated cache.
    """
    rng, middle = np.random.default_rng(0), length // 2
    config = checkpoint.model.config.language
    known_RTD = sequences(checkpoint)[0].numpy()

    def example(rows: int, past: int, time: int, gap: int = 0) -> Feeds:
        shape = (rows, config.num_key_value_heads, length, config.head_dim)
        feeds: Feeds = {
            "embeds": known_RTD[:rows].take(range(past, past + time), 1, mode="wrap"),
            "positions": np.tile(gap + np.arange(past, past + time), (rows, 1)),
            "lengths": np.full(rows, past + time),
        }
        for name in past_names(config.num_hidden_layers):
            cache = rng.standard_normal(shape, np.float32)
            if cached == "int8":
                cache = np.rint(cache * 20)  # levels: below 127
            cache[:, :, past:] = 0
            feeds[name] = cache.astype(cached)
        return feeds

    return [
        example(2, 0, middle),
        example(2, middle, 1),
        example(1, middle - 1, 1),
        example(1, 1, middle // 2, gap=middle // 4),
    ]


def _references(
    checkpoint: Checkpoint,
    examples: list[Feeds],
    spec: QuantSpec | None,
    scales: list[CacheScales] | None,
    fake_quantize: bool,
) -> list[list[np.ndarray]]:
    """Return what PyTorch computes for every example; each layer is loaded once.

    8-bit caches are returned divided by their scales; the numbers need not be whole.

    Args:
        checkpoint: The checkpoint.
        examples: The inputs.
        spec: If given, weights and inputs of matmuls are fake-quantized by it.
        scales: Of 8-bit caches, for each layer.
        fake_quantize: Fake-quantize the caches, too.
    """
    decoder = checkpoint.model.language_model.model
    xs = [torch.from_numpy(feeds["embeds"]) for feeds in examples]
    positions = [torch.from_numpy(feeds["positions"]) for feeds in examples]
    slots = [_slots(feeds) for feeds in examples]
    caches: list[list[np.ndarray]] = [[] for _ in examples]
    names = past_names(decoder.config.num_hidden_layers)
    for index, layer in enumerate(decoder.layers):
        part = loaded(checkpoint, f"{_PREFIX}layers.{index}.")
        with part, fake_quantized(layer, spec), torch.no_grad():
            own = scales[index] if scales else CacheScales.none()
            level = own.keys_G1E, own.values_G1E
            for i, feeds in enumerate(examples):
                keys, values = (
                    torch.from_numpy(feeds[name].astype(np.float32)) * scale
                    for name, scale in zip(names[2 * index : 2 * index + 2], level, strict=True)
                )
                cache = LayerCache(keys, values)
                if fake_quantize and scales:
                    cache = QuantizedCache(keys, values, own)
                turn = rope(decoder.config, positions[i])
                slots_M = torch.arange(keys.shape[2])
                mask = (slots_M <= slots[i][..., None])[:, None]
                xs[i] = layer(xs[i], *turn, mask, cache, slots[i])
                caches[i] += [(keys / level[0]).numpy(), (values / level[1]).numpy()]
    with loaded(checkpoint, f"{_PREFIX}norm."), torch.no_grad():
        return [[decoder.norm(x).numpy(), *kept] for x, kept in zip(xs, caches, strict=True)]


def _slots(feeds: Feeds) -> torch.Tensor:
    """Return where in the caches new positions are written, (R, T): after all valid positions.

    That is not at their own numbers if those leave a gap.
    """
    time = feeds["embeds"].shape[1]
    return torch.from_numpy(feeds["lengths"][:, None] - time + np.arange(time))
