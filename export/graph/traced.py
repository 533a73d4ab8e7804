"""Components that PyTorch's exporter turns into graphs, each from one function of tensors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from janus_edge.export.graph.builder import IR_VERSION, OPSET
from janus_edge.export.graph.component import Component, Feeds, relative_error
from janus_edge.export.graph.lowering import LOWERINGS
from janus_edge.export.quantization.convolutions import (
    CONVOLUTIONS,
    ObservedRanges,
    fake_quantized_convolutions,
    quantize_convolutions,
)
from janus_edge.export.quantization.matmuls import quantize_matmuls
from janus_edge.export.quantization.quantize import Packer, QuantSpec, fake_quantized
from janus_edge.runtime.stop import comes_through

Function = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Input:
    """An input without its first dimension.

    Attributes:
        name: Of the graph's input.
        shape: Without the first dimension.
        least: Examples are uniform in [least, most).
        most: See ``least``.
        below: If given, examples are whole numbers from 0 to below ``below``.
    """

    name: str
    shape: tuple[int, ...]
    least: float = -1.0
    most: float = 1.0
    below: int | None = None

    def example(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Return an example (size, *shape)."""
        if self.below is not None:
            return rng.integers(0, self.below, (size, *self.shape))
        return rng.uniform(self.least, self.most, (size, *self.shape)).astype(np.float32)


def traced(
    name: str,
    parameters: tuple[str, ...],
    owner: nn.Module,
    function: Function,
    inputs: tuple[Input, ...],
    outputs: tuple[str, ...],
    *,
    batch: str = "B",
    spec: QuantSpec | None = None,
    packer: Packer | None = None,
    lowering: str = "onnxruntime",
    ranges: Callable[[], ObservedRanges] | None = None,
    reference: Function | None = None,
    error: Callable[[np.ndarray, np.ndarray], float] = relative_error,
    layers: Callable[[], Mapping[str, np.ndarray]] | None = None,
) -> Component:
    """Return a component that computes a function of an owner's parameters.

    Args:
        name: The component.
        parameters: Prefixes of the parameters that it needs in memory.
        owner: The module whose parameters the function uses.
        function: The function of tensors.
        inputs: Its inputs, in order.
        outputs: Names of its outputs.
        batch: Name of the first dimension of all inputs and outputs.
        spec: How the weights of linear layers are quantized.
        packer: Quantizes the weights, each once; None quantizes them anew.
        lowering: A name of ``LOWERINGS``.
        ranges: If given, convolutions are quantized in these ranges.
        reference: What the outputs are compared with, by default the function.
        error: Of an output against its reference.
        layers: If given, linear layers' weights (O, I) by name: they lie in tiles beside the graph.
    """

    def examples() -> list[Feeds]:
        rng = np.random.default_rng(2)
        both = {given.name: given.example(rng, 2) for given in inputs}
        return [{name: array[:1] for name, array in both.items()}, both]

    def build(data: Path | None) -> onnx.ModelProto:
        proto = _exported(_Call(owner, function).eval(), examples()[-1], outputs, batch)
        if spec is not None:
            proto = quantize_matmuls(proto, spec, LOWERINGS[lowering], data, layers)
        return proto if ranges is None else quantize_convolutions(proto, ranges())

    def references(examples: list[Feeds], fake_quantize: bool = False) -> list[list[np.ndarray]]:
        *_, last = examples  # the others are its first rows: each row is computed once
        compute = reference or function
        convolutions = (
            fake_quantized_convolutions(ranges()) if fake_quantize and ranges else nullcontext()
        )
        layers = fake_quantized(owner, spec if fake_quantize else None, packer)
        with layers, convolutions, torch.no_grad():
            out = compute(*(torch.from_numpy(array) for array in last.values()))
        if packer is not None and fake_quantize:
            packer.forget()
        parts = [_array(part) for part in (out if isinstance(out, tuple) else (out,))]
        sizes = [len(next(iter(feeds.values()))) for feeds in examples]
        return [[part[:size] for part in parts] for size in sizes]

    return Component(
        name=name,
        outputs=outputs,
        profile={batch: (1, 2 if batch == "R" else 1, 16 if batch == "R" else 8)},
        parameters=parameters,
        build=build,
        examples=examples,
        references=references,
        error=error,
        spec=CONVOLUTIONS if ranges else spec,
        is_quantized=spec is not None or ranges is not None,
        is_listed=layers is not None,
    )


def _exported(
    module: nn.Module, example: Feeds, outputs: tuple[str, ...], batch: str
) -> onnx.ModelProto:
    """Return a module as PyTorch's exporter writes it, for any size of the first dimension."""
    with comes_through(), _quiet_exporter():
        program = torch.onnx.export(
            module,
            tuple(torch.from_numpy(array) for array in example.values()),
            input_names=list(example),
            output_names=list(outputs),
            dynamic_shapes=(tuple({0: torch.export.Dim(batch)} for _ in example),),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    proto = _without_traces(program.model_proto)
    proto.ir_version = IR_VERSION
    return proto


def _without_traces(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without what the exporter notes of where each node came from.

    Those notes hold paths of the machine that exported, and change with every edit of a file.
    """
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        part.doc_string = ""
        del part.metadata_props[:]
    for tensor in graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    return proto


def _array(part: Tensor) -> np.ndarray:
    """Return a numpy array; bfloat16 becomes float32, as numpy does not have it."""
    return (part.float() if part.is_floating_point() else part).numpy()


class _Call(nn.Module):
    """A module that calls one function of tensors, for the exporter."""

    def __init__(self, owner: nn.Module, function: Function) -> None:
        super().__init__()
        self.owner, self.function = owner, function

    def forward(self, *x: Tensor) -> Any:
        """Call the function."""
        return self.function(*x)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter on its own deprecations, torchvision and shared axis names."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", "# The axis name", UserWarning)
            yield
    finally:
        logger.setLevel(level)
