"""An image decoder's convolutions in 8 bits, and what goes in and out of them.

One scale an output for weights; for the rest one range a tensor, found on images at export, as
ONNX Runtime's fused operator wants its output's range before it computes. 3x3 kernels alone: the
others cost next to nothing; and not the last, which makes the pixels.
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
        """The library's name: another image, None after the last."""
        return next(self._left, None)


def quantize_convolutions(proto: onnx.ModelProto, images: list[Feeds]) -> onnx.ModelProto:
    """The model with its convolutions between QuantizeLinear and DequantizeLinear, which engines
    fuse; ranges are those of the images."""
    shapes = {tensor.name: list(tensor.dims) for tensor in proto.graph.initializer}
    chosen = [
        node.name
        for node in proto.graph.node
        if node.op_type == "Conv" and _is_quantized(shapes[node.input[1]])
    ]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "rounded.onnx"
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
    """The module with convolutions that compute from rounded weights and inputs, and round their
    outputs, each tensor in its own range. Afterwards it is as it was."""
    convolutions = [  # those in memory: an encoder's may be left in their file
        m
        for m in module.modules()
        if isinstance(m, nn.Conv2d) and not m.weight.is_meta and _is_quantized(m.weight.shape)
    ]
    with with_dequantized_weights(convolutions, CONVOLUTIONS, _fake_quantize_ends):
        yield


def _fake_quantize_ends(convolution: nn.Module) -> list[RemovableHandle]:
    return [
        convolution.register_forward_pre_hook(lambda _, given: (_rounded(given[0]),)),
        convolution.register_forward_hook(lambda _, _given, made: _rounded(made)),
    ]


def _is_quantized(shape: list[int] | torch.Size) -> bool:
    """Of a weight (O, I, height, width)."""
    return tuple(shape[2:]) == (3, 3) and shape[0] > 3


def _rounded(x: Tensor) -> Tensor:
    least, most = x.amin().clamp_max(0), x.amax().clamp_min(0)
    level = ((most - least) / _LEVELS).clamp_min(1e-12)
    return (x / level).round() * level


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's advice to run its graph optimizer first."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
