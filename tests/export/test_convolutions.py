"""Image decoders in 8 bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from janus_edge.export.graph.builder import save_graph
from janus_edge.export.graph.component import relative_error
from janus_edge.export.graph.components import graph_components
from janus_edge.export.graph.parity import ParityError, measure_parity
from janus_edge.export.quantization.convolutions import fake_quantized_convolutions, observed
from janus_edge.export.quantization.presets import PRESETS
from janus_edge.model.weights import Checkpoint, load_checkpoint

ROOT = Path(__file__).parent.parent.parent


def test_all_but_the_pixels_are_rounded(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (part,) = _image_decoder(checkpoint)
    proto = part.build(None)
    made_by = {name: node for node in proto.graph.node for name in node.output}
    shapes = {tensor.name: list(tensor.dims) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Conv":
            is_rounded = node.input[1] in made_by  # by a DequantizeLinear
            assert is_rounded == _is_wide(node, made_by, shapes)
    examples = part.examples()
    exact, low = part.references(examples), part.references(examples, fake_quantize=True)
    save_graph(proto, tmp_path / "d.onnx")
    error = measure_parity(part, tmp_path / "d.onnx", "load", examples, exact, low).error
    assert 0 < error < 0.3


def test_the_shipped_model_can_be_quantized(tmp_path: Path) -> None:
    """Its samples are many, and its weights are trained: ranges that hold them all are too wide."""
    (part,) = _image_decoder(load_checkpoint(ROOT / "checkpoints/tiny-janus"))
    save_graph(part.build(None), tmp_path / "d.onnx")
    examples = part.examples()
    exact, low = part.references(examples), part.references(examples, fake_quantize=True)
    measure_parity(part, tmp_path / "d.onnx", "load", examples, exact, low)


def test_a_flows_autoencoder_stays_exact(flow_checkpoint: Checkpoint) -> None:
    (part,) = _image_decoder(flow_checkpoint)
    assert part.spec is None and not part.is_quantized


def test_wrong_ranges_fail_the_export(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (part,) = _image_decoder(checkpoint)
    proto, examples = part.build(None), part.examples()
    exact, low = part.references(examples), part.references(examples, fake_quantize=True)
    outputs = {name for n in proto.graph.node if n.op_type == "Conv" for name in n.output}
    (scale, *_) = [
        n.input[1]
        for n in proto.graph.node
        if n.op_type == "QuantizeLinear" and n.input[0] in outputs
    ]
    for tensor in proto.graph.initializer:
        if tensor.name == scale:
            narrow = numpy_helper.to_array(tensor) / 8
            tensor.CopyFrom(numpy_helper.from_array(narrow.astype(np.float32), scale))
    save_graph(proto, tmp_path / "d.onnx")
    with pytest.raises(ParityError, match="image_decoder: pixels differs"):
        measure_parity(part, tmp_path / "d.onnx", "load", examples, exact, low)


def test_a_rounded_module_is_close_and_becomes_what_it_was() -> None:
    torch.manual_seed(0)
    module, x = torch.nn.Conv2d(8, 16, 3, padding=1), torch.randn(2, 8, 9, 9)
    with torch.no_grad():
        exact = module(x).numpy()
        with observed(module) as ranges:
            module(x)
        with fake_quantized_convolutions(ranges):
            error = relative_error(module(x).numpy(), exact)
        assert 1e-4 < error < 0.02 and np.array_equal(module(x).numpy(), exact)


def _image_decoder(checkpoint: Checkpoint) -> list:  # type: ignore[type-arg]
    preset = dataclasses.replace(PRESETS["fp32"], convolutions=True)
    parts = graph_components(checkpoint, 96, preset)
    return [part for part in parts if part.name == "image_decoder"]


def _is_wide(node: onnx.NodeProto, made_by: dict[str, onnx.NodeProto], shapes: dict) -> bool:  # type: ignore[type-arg]
    name = node.input[1]
    while name in made_by:
        name = made_by[name].input[0]
    return shapes[name][2:] == [3, 3] and shapes[name][0] > 3
