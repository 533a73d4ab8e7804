"""Quantize an image decoder's convolutions, and their inputs and outputs, to 8 bits.

Weights have one scale per output. Inputs and outputs have one range per tensor, found on images at
export: ONNX Runtime's fused operator needs its output's range before it computes. Only 3x3 kernels
are quantized, as the others cost next to nothing, and not the last convolution, which makes the
pixels.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from janus_edge.export.graph.component import Feeds
from janus_edge.export.quantization.quantize import QuantSpec, with_dequantized_weights

CONVOLUTIONS = QuantSpec(bits=8)
_LEVELS = 255


class _Images(CalibrationDataReader):
    def __init__(self, feeds: list[Feeds]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Feeds | None:
        """Return another image's inputs, None after the last. The library calls this name."""
        return next(self._left, None)


def quantize_convolutions(proto: onnx.ModelProto, images: list[Feeds]) -> onnx.ModelProto:
    """Return the model with its convolutions between QuantizeLinear and DequantizeLinear.

    Engines fuse these into one operator.

    Args:
        proto: The model.
        images: Inputs whose values determine the ranges.
    """
    shapes = {tensor.name: list(tensor.dims) for tensor in proto.graph.initializer}
    chosen = [
        node.name
        for node in proto.graph.node
        if node.op_type == "Conv" and _is_quantized(shapes[node.input[1]])
    ]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "quantized.onnx"
        quantize_static(
            proto,
            path,
            _Images(images),
            quant_format=QuantFormat.QDQ,
            nodes_to_quantize=chosen,
            per_channel=True,
            activation_type=QuantType.QUInt8,  # x86 multiplies unsigned by signed numbers
            weight_type=QuantType.QInt8,
            extra_options={"WeightSymmetric": True},
        )
        return onnx.load(path)


@contextmanager
def fake_quantized_convolutions(module: nn.Module) -> Iterator[None]:
    """Make a module's convolutions compute fake-quantized inside the block.

    Weights, inputs and outputs are quantized and dequantized, each tensor in its own range. After
    the block the module is as it was.
    """
    convolutions = [  # those in memory: an encoder's may not be loaded
        m
        for m in module.modules()
        if isinstance(m, nn.Conv2d) and not m.weight.is_meta and _is_quantized(m.weight.shape)
    ]
    with with_dequantized_weights(convolutions, CONVOLUTIONS, _fake_quantize_ends):
        yield


def _fake_quantize_ends(convolution: nn.Module) -> list[RemovableHandle]:
    return [
        convolution.register_forward_pre_hook(lambda _, given: (_fake_quantized(given[0]),)),
        convolution.register_forward_hook(lambda _, _given, made: _fake_quantized(made)),
    ]


def _is_quantized(shape: list[int] | torch.Size) -> bool:
    """Return True for the shape (O, I, height, width) of a weight that is quantized."""
    return tuple(shape[2:]) == (3, 3) and shape[0] > 3


def _fake_quantized(x: Tensor) -> Tensor:
    """Return x quantized to 8 bits in its own range, and dequantized."""
    least, most = x.amin().clamp_max(0), x.amax().clamp_min(0)
    level = ((most - least) / _LEVELS).clamp_min(1e-12)
    return (x / level).round() * level


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's advice to run its graph optimizer first."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
