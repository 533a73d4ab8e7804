"""Check that an exported component computes what PyTorch computes. If not, the export fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from janus_edge.export.graph.component import Component, Feeds
from janus_edge.export.graph.tiled import tiles_of
from janus_edge.runtime.backends.onnxruntime import load_graph
from janus_edge.runtime.tiles import initializers

TOLERANCE = 1e-4  # of the reference's largest value, fp32
EAGER = 2.0  # times the error of PyTorch with the same dequantized weights, in fp32


class ParityError(Exception):
    """An exported component differs from its reference. One line says which, and by how much."""


class Parity(NamedTuple):
    """The largest error of a component that passed.

    Attributes:
        error: Over the reference's largest value.
        limit: What was allowed there.
    """

    error: float
    limit: float

    def __str__(self) -> str:
        """Return the line that an export reports of a component."""
        return f"ok (limit {self.limit:.1e}, error {self.error:.1e})"


def measure_parity(
    component: Component,
    path: Path,
    upcast: str,
    examples: list[Feeds],
    references: list[list[np.ndarray]],
    eager: list[list[np.ndarray]] | None = None,
    tolerance: float | None = None,
) -> Parity:
    """Run the file on every example and compare its outputs with the references.

    Args:
        component: The component.
        path: Its graph.
        upcast: When fp16 weights become float32: "load" or "use".
        examples: The inputs.
        references: PyTorch's outputs for them.
        eager: For quantized weights, PyTorch's fake-quantized outputs. ``EAGER`` times their error
            is added to what is allowed, as inputs of matmuls are quantized, too.
        tolerance: The error allowed, by default TOLERANCE.

    Raises:
        ParityError: An output differs by more than is allowed.
    """
    worst = Parity(0.0, TOLERANCE if tolerance is None else tolerance)
    found: list[Feeds] = [{} for _ in examples]
    for segment, inputs, outputs in _segments(component, path, upcast, list(examples[0])):
        graph = onnx.load(segment, load_external_data=False).graph
        weights = initializers(tiles_of(graph), path.with_suffix(".data"))
        engine = load_graph(segment, num_threads=0, upcast=upcast, weights=weights)
        for feeds, values in zip(examples, found, strict=True):
            known = feeds | values
            results = engine.run({name: known[name] for name in inputs})
            values |= dict(zip(outputs, results, strict=True))
    rough = eager or references
    for feeds, values, expected, made in zip(examples, found, references, rough, strict=True):
        for name, reference, low in zip(component.outputs, expected, made, strict=True):
            error = component.error(values[name], reference)
            allowed = TOLERANCE if tolerance is None else tolerance
            if eager is not None:
                allowed += EAGER * component.error(low, reference)
            if not (error <= allowed and np.isfinite(error)):
                shapes = {key: value.shape for key, value in feeds.items() if "past" not in key}
                raise ParityError(
                    f"{component.name}: {name} differs from PyTorch by {error:.1e} of its largest "
                    f"value (allowed {allowed:.0e}) for {shapes}"
                )
            worst = max(worst, Parity(error, allowed))
    return worst


def _segments(
    component: Component, path: Path, upcast: str, inputs: list[str]
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield the graph in pieces that follow one another, each a file with its inputs and outputs.

    A graph that may be larger than memory runs piece by piece, with the weights of one piece mapped
    at a time. Any other graph is one piece.
    """
    if not (component.cuts and path.with_suffix(".data").exists()):
        yield path, inputs, list(component.outputs)
        return
    graph = onnx.load(path, load_external_data=False)
    piece, nodes, start = path.with_name(f"{path.stem}.piece.onnx"), list(graph.graph.node), 0
    ends = [i + 1 for i, node in enumerate(nodes) if set(node.output) & set(component.cuts)]
    for end in (*ends, len(nodes)):
        made = {name for node in nodes[start:end] for name in node.output}
        outputs = sorted(made & {*component.outputs, *component.cuts})
        part = _extract(graph, outputs, set(component.cuts) - set(outputs))
        onnx.save(part, piece)
        yield piece, [value.name for value in part.graph.input], outputs
        start = end
    piece.unlink()


def _extract(graph: onnx.ModelProto, outputs: list[str], given: set[str]) -> onnx.ModelProto:
    """Return the part of a graph that computes ``outputs`` from its inputs and ``given``."""
    needed, nodes = set(outputs), []
    for node in reversed(graph.graph.node):
        if set(node.output) & needed:
            nodes.append(node)
            needed |= set(node.input) - given
    used = {name for node in nodes for name in node.input}
    known = {value.name: value for value in (*graph.graph.input, *graph.graph.output)}
    inputs = [*(value.name for value in graph.graph.input), *sorted(given)]

    def value(name: str) -> onnx.ValueInfoProto:
        hidden = ["R", "T", None]
        made = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, hidden)
        return known.get(name, made)

    body = onnx.helper.make_graph(
        nodes[::-1],
        graph.graph.name,
        [value(name) for name in inputs if name in used],
        [value(name) for name in outputs],
        [tensor for tensor in graph.graph.initializer if tensor.name in used],
    )
    return onnx.helper.make_model(
        body, opset_imports=graph.opset_import, ir_version=graph.ir_version
    )
