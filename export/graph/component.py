"""A component at export: one graph, and the PyTorch computation that it must equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx

from janus_edge.export.quantization.quantize import QuantSpec
from janus_edge.runtime.manifest import Stored

Feeds = dict[str, np.ndarray]
Ranges = dict[str, tuple[int, int, int]]


def relative_error(output: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest difference over the reference's largest value.

    Infinite if the shapes differ or either is not finite.
    """
    if output.shape != reference.shape:
        return float("inf")
    if not (np.isfinite(output).all() and np.isfinite(reference).all()):
        return float("inf")
    difference = float(np.abs(output.astype(np.float64) - reference).max())
    return difference / max(float(np.abs(reference).max()), 1e-12)


def _nothing(_data: Path) -> dict[str, Stored]:
    return {}


class References(Protocol):
    """The type of ``Component.references``."""

    def __call__(
        self, examples: list[Feeds], fake_quantize: bool = False
    ) -> list[list[np.ndarray]]:
        """Return PyTorch's outputs for each example."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """One graph, with the computation that it must equal.

    Attributes:
        name: The component.
        outputs: Names of the graph's outputs.
        profile: (min, usual, max) of every named dimension.
        parameters: Prefixes of the parameters that ``build`` and ``references`` need in memory.
        build: Returns the graph; takes the file for the weights beside it, or None.
        examples: Returns inputs of several sizes.
        references: Returns PyTorch's outputs for examples; with ``fake_quantize`` everything is
            fake-quantized that the graph quantizes.
        uses: Profiles by use, if an engine is optimized for several.
        num_weights: How many weights can lie beside the graph.
        error: Of an output against its reference.
        spec: How the weights are quantized.
        is_quantized: True if anything is quantized.
        is_listed: True if the manifest says where each weight lies, for a backend without a graph.
        beside: Writes what that backend needs and the graph does not, behind the weights in the
            file; returns where, for the manifest.
        constants: Numbers that such a backend needs.
        cuts: Tensors at which the graph can be split and run in pieces, if it is larger than
            memory.
    """

    name: str
    outputs: tuple[str, ...]
    profile: Ranges
    parameters: tuple[str, ...]
    build: Callable[[Path | None], onnx.ModelProto]
    examples: Callable[[], list[Feeds]]
    references: References
    uses: dict[str, Ranges] = field(default_factory=dict)
    num_weights: int = 0
    error: Callable[[np.ndarray, np.ndarray], float] = relative_error
    spec: QuantSpec | None = None
    is_quantized: bool = False
    is_listed: bool = False
    beside: Callable[[Path], dict[str, Stored]] = _nothing
    constants: dict[str, float] = field(default_factory=dict)
    cuts: tuple[str, ...] = ()
