"""What a component is: one graph, and the PyTorch computation that it has to equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx

from janus_edge.export.quantization.quantize import QuantSpec

Feeds = dict[str, np.ndarray]
Ranges = dict[str, tuple[int, int, int]]


def relative_error(output: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference over the reference's largest value; infinite when shapes differ or
    either is not finite."""
    if output.shape != reference.shape:
        return float("inf")
    if not (np.isfinite(output).all() and np.isfinite(reference).all()):
        return float("inf")
    difference = float(np.abs(output.astype(np.float64) - reference).max())
    return difference / max(float(np.abs(reference).max()), 1e-12)


class References(Protocol):
    """See ``Component``."""

    def __call__(
        self, examples: list[Feeds], fake_quantize: bool = False
    ) -> list[list[np.ndarray]]: ...


@dataclass(frozen=True, kw_only=True)
class Component:
    """One graph.

    profile: (min, usual, max) of every named dimension; uses: of what an engine is optimized for,
    where there are several. parameters: prefixes of those that must be
    in memory for ``build`` and ``references``. build: takes the file for the weights beside the
    graph, or None. references: PyTorch's outputs for the examples, which are feeds of several
    sizes; fake_quantize: with everything quantized that the graph quantizes. error: of an output
    against its reference. spec: how the weights are quantized. is_quantized: whether anything is.
    is_listed: whether the manifest says where each weight lies, for a backend without a graph.
    cuts: tensors at which the graph can be run in pieces, where it may be larger than memory.
    """

    name: str
    outputs: tuple[str, ...]
    profile: Ranges
    parameters: tuple[str, ...]
    build: Callable[[Path | None], onnx.ModelProto]
    examples: Callable[[], list[Feeds]]
    references: References
    uses: dict[str, Ranges] = field(default_factory=dict)
    num_weights: int = 0  # of those that can lie beside the graph
    error: Callable[[np.ndarray, np.ndarray], float] = relative_error
    spec: QuantSpec | None = None
    is_quantized: bool = False
    is_listed: bool = False
    cuts: tuple[str, ...] = ()
