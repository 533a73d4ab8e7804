"""Quantize an image decoder's convolutions, and their inputs and outputs, to 8 bits.

Weights have one scale per output. Inputs and outputs have one range per tensor, found on images at
export: ONNX Runtime's fused operator needs its output's range before it computes. Only 3x3 kernels
are quantized, as the others cost next to nothing, and not the last convolution, which makes the
pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import onnx
import torch
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from janus_edge.export.quantization.quantize import QuantSpec, with_dequantized_weights

CONVOLUTIONS = QuantSpec(bits=8)
_LEVELS = 255


class Range(NamedTuple):
    """The smallest and the largest value that a tensor had, scalars."""

    least: Tensor
    most: Tensor

    def including(self, x: Tensor) -> Range:
        """Return the range with the values of another tensor."""
        least, most = x.amin(), x.amax()  # aminmax takes 20 times as long if channels come last
        return Range(torch.minimum(self.least, least), torch.maximum(self.most, most))


class ConvolutionRanges(NamedTuple):
    """The ranges of a convolution's inputs and outputs."""

    inputs: Range
    outputs: Range


ObservedRanges = dict[
    nn.Module, ConvolutionRanges
]  # of convolutions, in the order of their first calls
_NOTHING = Range(torch.tensor(torch.inf), torch.tensor(-torch.inf))


@contextmanager
def observed(module: nn.Module) -> Iterator[ObservedRanges]:
    """Yield the ranges of a module's convolutions, which grow with every call inside the block."""
    found: ObservedRanges = {}

    def observe(convolution: nn.Module, given: tuple[Tensor], made: Tensor) -> None:
        before = found.get(convolution, ConvolutionRanges(_NOTHING, _NOTHING))
        found[convolution] = ConvolutionRanges(
            before.inputs.including(given[0]), before.outputs.including(made)
        )

    with ExitStack() as hooks:
        for convolution in _quantized(module):
            hooks.callback(convolution.register_forward_hook(observe).remove)
        yield found


def quantize_convolutions(proto: onnx.ModelProto, ranges: ObservedRanges) -> onnx.ModelProto:
    """Return the model with its convolutions between QuantizeLinear and DequantizeLinear.

    Engines fuse these into one operator.

    Args:
        proto: The model.
        ranges: Ranges of the convolutions in the order of their calls, which is the graph's order.
    """
    shapes = {tensor.name: list(tensor.dims) for tensor in proto.graph.initializer}
    nodes = [
        node
        for node in proto.graph.node
        if node.op_type == "Conv" and _is_quantized(shapes[node.input[1]])
    ]
    by_tensor: dict[str, Range] = {}
    for node, own in zip(nodes, ranges.values(), strict=True):
        by_tensor |= {node.input[0]: own.inputs, node.output[0]: own.outputs}
    quantizer = QDQQuantizer(
        proto,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,  # x86 multiplies unsigned by signed numbers
        tensors_range=TensorsData(
            CalibrationMethod.MinMax,
            {name: (least.numpy(), most.numpy()) for name, (least, most) in by_tensor.items()},
        ),
        nodes_to_quantize=[node.name for node in nodes],
        nodes_to_exclude=[],
        op_types_to_quantize=["Conv"],
        extra_options={"WeightSymmetric": True},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model


@contextmanager
def fake_quantized_convolutions(ranges: ObservedRanges) -> Iterator[None]:
    """Make convolutions compute fake-quantized inside the block.

    Weights, inputs and outputs are quantized and dequantized, the latter two in the given ranges.
    After the block the convolutions are as they were.
    """

    def hook(convolution: nn.Module) -> list[RemovableHandle]:
        inputs, outputs = ranges[convolution]
        return [
            convolution.register_forward_pre_hook(lambda _, x: (_fake_quantized(x[0], inputs),)),
            convolution.register_forward_hook(lambda _, _x, y: _fake_quantized(y, outputs)),
        ]

    layers = [layer for layer in ranges if isinstance(layer, nn.Conv2d)]
    with with_dequantized_weights(layers, CONVOLUTIONS, hook):
        yield


def _quantized(module: nn.Module) -> list[nn.Conv2d]:
    """Return the convolutions that are quantized, and in memory: an encoder's may not be loaded."""
    return [
        m
        for m in module.modules()
        if isinstance(m, nn.Conv2d) and not m.weight.is_meta and _is_quantized(m.weight.shape)
    ]


def _is_quantized(shape: list[int] | torch.Size) -> bool:
    """Return True for the shape (O, I, height, width) of a weight that is quantized."""
    return tuple(shape[2:]) == (3, 3) and shape[0] > 3


def _fake_quantized(x: Tensor, found: Range) -> Tensor:
    """Return x quantized to 8 bits in a range, and dequantized."""
    least, most = found.least.clamp_max(0), found.most.clamp_min(0)
    level = ((most - least) / _LEVELS).clamp_min(1e-12)
    zero = (-least / level).round()
    return ((x / level).round() + zero).clamp(0, _LEVELS).sub(zero) * level
