"""Two lowerings of one definition: ONNX Runtime's own operators, and standard ONNX alone.

A graph is defined once (decoder.py, components.py, ../quantization/matmuls.py). The lowerings
differ in attention over a KV cache and in matmuls with quantized weights.
"""

from __future__ import annotations

from janus_edge.export.graph import ops_onnxruntime, ops_portable
from janus_edge.export.graph.builder import Lowering
from janus_edge.export.quantization.presets import LOWERING_NAMES

LOWERINGS = {
    name: Lowering(
        matmul=ops.matmul,
        prepare=ops.prepare,
        attention=ops.attention,
        has_slices=name == "onnxruntime",
    )
    for name, ops in zip(LOWERING_NAMES, (ops_onnxruntime, ops_portable), strict=True)
}
