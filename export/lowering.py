"""Two lowerings of one definition: ONNX Runtime's own operators, and standard ONNX alone.

A graph is defined once (export/decoder.py, export/components.py, export/products.py); what the two
say differently is attention over a cache and products with rounded weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from janus_edge.export import ops_onnxruntime, ops_portable
from janus_edge.export.calibrate import CacheScales
from janus_edge.export.graph import Graph
from janus_edge.export.quantize import LOWERING_NAMES, Blocks
from janus_edge.model.config import LanguageConfig


@dataclass(frozen=True, kw_only=True)
class Lowering:
    """product: x (..., I) times rounded weights (O, I); takes the graph, x, the result's name, the
    weights and their blocks. prepare: adds what all layers share; "cos", "sin", "positions",
    "lengths" and the caches are there. attention: of a layer; takes the graph, its index, the names
    of queries, keys and values (R, T, D), and the scales of 8-bit caches; the name of its result.
    has_slices: whether weights that lie as halves beside the graph are multiplied in slices, for a
    processor's cache.
    """

    product: Callable[[Graph, str, str, np.ndarray, Blocks], str]
    prepare: Callable[[Graph], None]
    attention: Callable[[Graph, int, tuple[str, str, str], LanguageConfig, CacheScales | None], str]
    has_slices: bool


LOWERINGS = {
    name: Lowering(
        product=ops.product,
        prepare=ops.prepare,
        attention=ops.attention,
        has_slices=name == "onnxruntime",
    )
    for name, ops in zip(LOWERING_NAMES, (ops_onnxruntime, ops_portable), strict=True)
}
