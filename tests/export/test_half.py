"""Halves: what is rounded, what is not, and that it is seen when that is too much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from janus_edge.export.graph.parity import ParityError
from janus_edge.export.graph.traced import Input, traced
from janus_edge.export.quantization.half import ATTENTION, keep_casts, to_half
from janus_edge.export.tensorrt import engines as tensorrt_engines
from janus_edge.runtime.backends.onnxruntime import load_graph

RNG = np.random.default_rng(0)


def _graph(weight: np.ndarray) -> onnx.ModelProto:
    """y = sigmoid(x w + b) + x, z = y w."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Add", ["xw", "b"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["s"]),
        helper.make_node("Add", ["s", "x"], ["y"]),
        helper.make_node("MatMul", ["y", "w"], ["z"]),
    ]
    size = len(weight)
    body = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["R", size])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["R", size])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.ones(size, np.float32), "b"),
        ],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)


def _run(proto: onnx.ModelProto, path: Path, x: np.ndarray) -> np.ndarray:
    onnx.save(proto, path)
    return load_graph(path, 1, "use").run({"x": x})[0]


def _half(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16).astype(np.float32)


def test_products_are_rounded_and_nothing_else(tmp_path: Path) -> None:
    weight = RNG.standard_normal((8, 8)).astype(np.float32)
    x = RNG.standard_normal((3, 8)).astype(np.float32)
    made = to_half(_graph(weight), "float16")
    types = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert types == {"w.halved": TensorProto.FLOAT16, "b": TensorProto.FLOAT}
    found = _run(keep_casts(made), tmp_path / "half.onnx", x)
    w = _half(weight)
    y = 1 / (1 + np.exp(-(_half(_half(x) @ w) + 1))) + x
    assert np.allclose(found, _half(_half(y) @ w), rtol=0, atol=1e-6)
    exact = _run(_graph(weight), tmp_path / "exact.onnx", x)
    assert 1e-5 < np.abs(found - exact).max() < 1e-2


def test_the_library_would_not_have_rounded(tmp_path: Path) -> None:
    """Why casts are kept: without that a product that is too large goes unseen."""
    made = to_half(_graph(np.full((8, 8), 1e4, np.float32)), "float16")
    x = np.ones((1, 8), np.float32)
    assert np.isfinite(_run(made, tmp_path / "plain.onnx", x)).all()
    assert not np.isfinite(_run(keep_casts(made), tmp_path / "kept.onnx", x)).all()


def test_other_operators_are_left_alone() -> None:
    graph = _graph(np.eye(8, dtype=np.float32))
    assert to_half(graph, "bfloat16", ATTENTION).graph.node == graph.graph.node


def known(component: Any) -> tensorrt_engines.Known:
    """As the export has it by then."""
    examples = component.examples()
    return tensorrt_engines.Known(examples, component.references(examples))


def _component(name: str, scale: float) -> object:
    """A convolution whose sums have this size, brought back to 1 after it."""
    layer = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)
    torch.nn.init.constant_(layer.weight, 1.0)

    def compute(x: torch.Tensor) -> torch.Tensor:
        return layer(x * scale) / (27 * scale)

    given = Input(name="pixels", shape=(3, 8, 8))
    return traced(name, (), layer, compute, (given,), ("pixels_out",))


@pytest.mark.parametrize(("scale", "dtype"), [(1.0, "float16"), (1e5, "float32")])
def test_pixels_are_float32_where_halves_overflow(tmp_path: Path, scale: float, dtype: str) -> None:
    component = _component("image_decoder", scale)
    path = tmp_path / "image_decoder.onnx"
    onnx.save(component.build(None), path)
    _, found, error = tensorrt_engines._to_half_precision(
        component, path, "float16", known(component)
    )
    assert found == dtype and error < 2 / 255
    _, found, _ = tensorrt_engines._to_half_precision(component, path, "bfloat16", known(component))
    assert found == "float32"


def test_anything_else_that_overflows_is_refused(tmp_path: Path) -> None:
    component, path = _component("vision_encoder", 1e5), tmp_path / "vision_encoder.onnx"
    onnx.save(component.build(None), path)
    with pytest.raises(ParityError, match=r"differs .* by inf .*; try --precision bfloat16"):
        tensorrt_engines._to_half_precision(component, path, "float16", known(component))
    _, found, error = tensorrt_engines._to_half_precision(
        component, path, "bfloat16", known(component)
    )
    assert found == "bfloat16" and error < 0.05
