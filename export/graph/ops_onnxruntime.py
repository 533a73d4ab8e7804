"""Lower to ONNX Runtime's own operators, which its CPU provider runs fastest."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, numpy_helper

from janus_edge.export.graph.builder import MICROSOFT, Graph
from janus_edge.export.quantization.calibrate import CacheScales
from janus_edge.export.quantization.quantize import QuantSpec, signed
from janus_edge.model.config import LanguageConfig


def matmul(
    graph: Graph, x: str, name: str, output: str, weight_OI: np.ndarray, spec: QuantSpec
) -> str:
    """Add MatMulNBits for blocks, MatMulIntegerToFloat for one scale per output."""
    quantized, scales_OK = graph.pack(weight_OI, spec)
    if not spec.block_size:
        signed_IO, scales_KO = signed(quantized, scales_OK, spec, weight_OI.shape[1])
        quantized_IO = graph.weight(f"{name}.weight.quantized", signed_IO)
        scales_O = graph.constant(f"{name}.weight.scales", scales_KO[0])
        return _integers(graph, x, output, quantized_IO, scales_O, weight_OI.shape[1])
    stored = graph.blocks(name, quantized, scales_OK)
    return graph.node(
        "MatMulNBits",
        [x, *stored],
        [output],
        domain=MICROSOFT,
        K=weight_OI.shape[1],
        N=weight_OI.shape[0],
        bits=spec.bits,
        block_size=spec.block_size,
        accuracy_level=4,
    )


def _integers(
    graph: Graph, x: str, name: str, quantized_IO: str, scales_O: str, num_inputs: int
) -> str:
    """Add a matmul of integers: the weights' scales are in the operator, the rows' come after it.

    Activations are unsigned around 128, as x86 multiplies unsigned by signed numbers. ONNX
    Runtime's DynamicQuantizeMatMul has one scale for all rows, and rows of SigLIP differ too much
    for that.
    """
    integers, scales = quantized_rows(graph, x, num_inputs)
    unscaled = graph.node(
        "MatMulIntegerToFloat",
        [integers, quantized_IO, "rows.one", scales_O, "rows.zero"],
        [f"{name}.unscaled"],
        domain=MICROSOFT,
    )
    return graph.node("Mul", [unscaled, scales], [name])


def quantized_rows(graph: Graph, x: str, num_inputs: int) -> tuple[str, str]:
    """Quantize x (..., I) to uint8 around 128, with one scale per row (..., 1).

    It is done once for all matmuls of x.

    Args:
        graph: Takes the nodes.
        x: Name of the input.
        num_inputs: I.

    Returns:
        The names of the quantized values and of the scales.
    """
    if x in graph.rows:
        return graph.rows[x]
    if not graph.rows:
        graph.constant("rows.one", np.array(1, np.float32))
        graph.constant("rows.zero", np.array(128, np.uint8))
        graph.constant("rows.least", np.array(1e-12, np.float32))
        graph.constant("rows.level", np.array(1 / 127, np.float32))
        graph.constant("rows.last", np.array([-1]))
    size = graph.node("Abs", [x], [f"{x}.size"])
    peak = graph.node("ReduceMax", [size, "rows.last"], [f"{x}.peak"], keepdims=1)
    positive = graph.node("Max", [peak, "rows.least"], [f"{x}.positive"])
    scale = graph.node("Mul", [positive, "rows.level"], [f"{x}.scale"])
    # QuantizeLinear takes a scale for every index of one axis, so all rows become one axis.
    flat = graph.constant(f"{x}.flat_shape", np.array([-1, num_inputs]))
    flat_x = graph.node("Reshape", [x, flat], [f"{x}.flat"])
    flat_scale = graph.node("Reshape", [scale, "rows.last"], [f"{x}.flat_scale"])
    shape = graph.node("Shape", [flat_scale], [f"{x}.num_rows"])
    zero = numpy_helper.from_array(np.array([128], np.uint8))
    zeros = graph.node("ConstantOfShape", [shape], [f"{x}.zeros"], value=zero)
    levels = graph.node("QuantizeLinear", [flat_x, flat_scale, zeros], [f"{x}.flat_levels"], axis=0)
    whole = graph.node("Shape", [x], [f"{x}.shape"])
    graph.rows[x] = graph.node("Reshape", [levels, whole], [f"{x}.levels"]), scale
    return graph.rows[x]


def prepare(graph: Graph) -> None:
    """Add what GroupQueryAttention needs: each row's last index, and the longest row, as int32."""
    narrow = graph.node("Cast", ["lengths"], ["lengths_i32"], to=TensorProto.INT32)
    one = graph.constant("one", np.array(1, np.int32))
    graph.node("Sub", [narrow, one], ["last_index"])
    graph.node("ReduceMax", [narrow], ["longest"], keepdims=0)
    if graph.is_for_prefill:
        new = graph.node("Shape", ["embeds"], ["new"], start=1, end=2)
        before = graph.node("Sub", ["lengths", new], ["lengths.before"])
        graph.node("Max", [before, graph.constant("zero", np.array(0))], ["start"])
        graph.node("ReduceMax", ["start"], ["valid"], keepdims=1)
        graph.constant("from.zero", np.array([0]))
        graph.constant("axis.slots", np.array([2]))
        graph.constant("level.one", np.array(1, np.float32))
        graph.constant("level.zero", np.array(0, np.int8))


def attention(
    graph: Graph,
    index: int,
    qkv: tuple[str, str, str],
    config: LanguageConfig,
    scales: CacheScales | None,
) -> str:
    """Add GroupQueryAttention, which also applies the rotary embedding and writes to the KV caches.

    Args:
        graph: Takes the nodes.
        index: The layer.
        qkv: Names of queries, keys and values (R, T, D).
        config: The language model's.
        scales: Of 8-bit caches; None for float32 caches.

    Returns:
        The name of the result (R, T, D).
    """
    at, names = f"layers.{index}", (f"k_{index}", f"v_{index}")
    caches = [f"past_{name}" for name in names], [f"present_{name}" for name in names]
    if scales is None:
        return _attention(graph, at, qkv, caches, config)
    levels = dict(zip(names, (scales.keys_G1E.numpy(), scales.values_G1E.numpy()), strict=True))
    if graph.is_for_prefill:
        return _attention_of_levels(graph, at, qkv, levels, config)
    stored = [graph.weight(f"{name}.scale", scale.flatten()) for name, scale in levels.items()]
    per_channel = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
    options: dict[str, str | int] = {**per_channel, "kv_cache_bit_width": 8}
    return _attention(graph, at, qkv, caches, config, ["", "", *stored], options)


def _attention(
    graph: Graph,
    at: str,
    qkv: tuple[str, str, str],
    caches: tuple[list[str], list[str]],
    config: LanguageConfig,
    more: list[str] | None = None,
    options: dict[str, str | int] | None = None,
) -> str:
    """Add GroupQueryAttention.

    Args:
        graph: Takes the nodes.
        at: The layer's name.
        qkv: Names of queries, keys and values.
        caches: Names of past and present caches.
        config: The language model's.
        more: Further inputs, for 8-bit caches.
        options: Further attributes, for 8-bit caches.

    Returns:
        The name of the result.
    """
    past, present = caches
    return graph.node(
        "GroupQueryAttention",
        [*qkv, *past, "last_index", "longest", "cos", "sin", "positions", *(more or [])],
        [f"{at}.attention", *present],
        domain=MICROSOFT,
        num_heads=config.num_attention_heads,
        kv_num_heads=config.num_key_value_heads,
        do_rotary=1,
        **(options or {}),
    )


def _attention_of_levels(
    graph: Graph,
    at: str,
    qkv: tuple[str, str, str],
    levels: dict[str, np.ndarray],
    config: LanguageConfig,
) -> str:
    """Add attention in float32 over 8-bit caches, for many new positions.

    ONNX Runtime's 8-bit attention takes three times as long for those (docs/quantization.md). Valid
    positions of the caches are dequantized; new ones are quantized and written after them. All rows
    have the same number of valid positions, or none. ``levels``: the scales (G, 1, E) of both
    caches.
    """
    past, exact = [], []
    for name, scale in levels.items():
        valid = graph.node(
            "Slice", [f"past_{name}", "from.zero", "valid", "axis.slots"], [f"{name}.valid"]
        )
        wide = graph.node("Cast", [valid], [f"{name}.levels"], to=TensorProto.FLOAT)
        past.append(
            graph.node("Mul", [wide, graph.constant(f"{name}.scale", scale)], [f"{name}.past"])
        )
        exact.append(f"{name}.exact")
    mixed = _attention(graph, at, qkv, (past, exact), config)
    for name, scale in levels.items():
        end = graph.node("Shape", [f"{name}.exact"], [f"{name}.end"], start=2, end=3)
        new = graph.node("Slice", [f"{name}.exact", "valid", end, "axis.slots"], [f"{name}.new"])
        inverse = graph.constant(f"{name}.inverse", 1 / scale)
        scaled = graph.node("Mul", [new, inverse], [f"{name}.scaled"])
        rounded = graph.node(
            "QuantizeLinear", [scaled, "level.one", "level.zero"], [f"{name}.rounded"]
        )
        written = [f"past_{name}", rounded, "start"]
        graph.node("TensorScatter", written, [f"present_{name}"], axis=2)
    return mixed
