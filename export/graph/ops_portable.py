"""Lower to standard ONNX, opset 24, which all engines of that opset run and TensorRT fuses."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from janus_edge.export.graph.builder import Graph
from janus_edge.export.graph.ops_onnxruntime import quantized_rows
from janus_edge.export.quantization.calibrate import CacheScales
from janus_edge.export.quantization.quantize import QuantSpec, signed
from janus_edge.model.config import LanguageConfig


def matmul(
    graph: Graph, x: str, name: str, output: str, weight_OI: np.ndarray, spec: QuantSpec
) -> str:
    """Add a matmul with quantized weights.

    For blocks it is DequantizeLinear and MatMul, which engines fuse; per channel it is
    MatMulInteger.
    """
    packed = graph.pack(weight_OI, spec)
    quantized_IO, scales_KO = signed(*packed, spec, weight_OI.shape[1])
    if not spec.block_size:
        stored = graph.weight(f"{name}.weight.quantized", quantized_IO)
        scales_O = graph.constant(f"{name}.weight.scales", scales_KO[0])
        return _integers(graph, x, output, stored, scales_O, weight_OI.shape[1])
    store = graph.nibbles if spec.bits == 4 else graph.weight
    stored = store(f"{name}.weight.quantized", quantized_IO)
    # In the graph, not beside it: export/quantization/half.py converts the scales.
    scales = graph.constant(f"{name}.weight.scales", scales_KO)
    weight = graph.node(
        "DequantizeLinear",
        [stored, scales],
        [f"{name}.weight"],
        axis=0,
        block_size=spec.block_size,
    )
    return graph.node("MatMul", [x, weight], [output])


def _integers(
    graph: Graph, x: str, name: str, quantized_IO: str, scales_O: str, num_inputs: int
) -> str:
    """Add a matmul of integers, then the scales of weights and rows."""
    integers, scales = quantized_rows(graph, x, num_inputs)
    summed = graph.node("MatMulInteger", [integers, quantized_IO, "rows.zero"], [f"{name}.summed"])
    unscaled = graph.node("Cast", [summed], [f"{name}.unscaled"], to=TensorProto.FLOAT)
    scaled = graph.node("Mul", [unscaled, scales_O], [f"{name}.scaled"])
    return graph.node("Mul", [scaled, scales], [name])


def prepare(graph: Graph) -> None:
    """Add where new positions are written, and the mask (R, 1, T, M) of what each may attend to.

    New positions are written after the valid ones, those of a padded prompt from 0 on. A position
    attends to the slots up to its own. The mask is explicit, as TensorRT's parser ignores
    Attention's ``nonpad_kv_seqlen``.
    """
    graph.constant("i64.0", np.array(0))
    for name, axes in (("axes.0", [0]), ("axes.1", [1]), ("axes.last", [-1])):
        graph.constant(name, np.array(axes))
    # Slices of a constant: ONNX Runtime refuses Range if a cache's length is fixed.
    (most,) = (tensor.dims[0] for tensor in graph.initializers if tensor.name == "cos")
    graph.constant("index", np.arange(most))
    sizes = {
        name: graph.node("Shape", [of], [f"{name}.shape"], start=axis, end=axis + 1)
        for name, of, axis in (("new", "embeds", 1), ("slots", "past_k_0", 2))
    }
    counts = {}
    for name, size in sizes.items():
        counts[name] = graph.node("Slice", ["index", "axes.0", size, "axes.0"], [f"{name}.index"])
    before = graph.node("Sub", ["lengths", sizes["new"]], ["lengths.before"])
    start = graph.node("Max", [before, "i64.0"], ["start"])
    column = graph.node("Unsqueeze", [start, "axes.1"], ["start.column"])
    own = graph.node("Add", [column, counts["new"]], ["own"])  # (R, T)
    own = graph.node("Unsqueeze", [own, "axes.1"], ["own.of_heads"])
    own = graph.node("Unsqueeze", [own, "axes.last"], ["own.slot"])
    graph.node("LessOrEqual", [counts["slots"], own], ["mask"])


def attention(
    graph: Graph,
    index: int,
    qkv: tuple[str, str, str],
    config: LanguageConfig,
    scales: CacheScales | None,
) -> str:
    """Add RotaryEmbedding, TensorScatter into the KV caches, and Attention.

    Args:
        graph: Takes the nodes.
        index: The layer.
        qkv: Names of queries, keys and values (R, T, D).
        config: The language model's.
        scales: None: standard operators have no 8-bit caches.

    Returns:
        The name of the result (R, T, D).
    """
    assert scales is None, "refused by preset_of"
    at, heads = f"layers.{index}", config.num_attention_heads
    queries, keys, values = (
        _by_heads(graph, name, count, config.head_dim)
        for name, count in zip(
            qkv, (heads, config.num_key_value_heads, config.num_key_value_heads), strict=True
        )
    )
    queries, keys = (
        graph.node("RotaryEmbedding", [part, "cos", "sin", "positions"], [f"{part}.turned"])
        for part in (queries, keys)
    )
    present = [
        graph.node("TensorScatter", [f"past_{name}", part, "start"], [f"present_{name}"], axis=2)
        for name, part in ((f"k_{index}", keys), (f"v_{index}", values))
    ]
    mixed = graph.node("Attention", [queries, *present, "mask"], [f"{at}.heads"])
    rows = graph.node("Transpose", [mixed], [f"{at}.rows"], perm=[0, 2, 1, 3])
    flat = graph.constant(f"{at}.flat", np.array([0, 0, heads * config.head_dim]))
    return graph.node("Reshape", [rows, flat], [f"{at}.attention"])


def _by_heads(graph: Graph, name: str, num_heads: int, head_dim: int) -> str:
    """Reshape (R, T, D) to (R, heads, T, E)."""
    shape = graph.constant(f"{name}.shape", np.array([0, 0, num_heads, head_dim]))
    split = graph.node("Reshape", [name, shape], [f"{name}.split"])
    return graph.node("Transpose", [split], [f"{name}.heads"], perm=[0, 2, 1, 3])
