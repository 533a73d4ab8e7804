"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from janus_edge.runtime.backends import Arrays
from janus_edge.runtime.errors import BundleError

# An engine's threads wait for its next product by spinning, and each engine has its own: as long as
# they spin after its last one they keep a processor from the next engine. Decoder and head in turn
# took twice as long with the library's default (docs/benchmark.md). "" is that default.
SPIN_US = "100"


def load(path: Path, num_threads: int, upcast: str) -> OrtEngine:
    """Open a graph for the CPU provider. Raises BundleError if ONNX Runtime refuses it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.enable_mem_pattern = False
    if SPIN_US:
        options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_US)
    # of 4-bit weights in standard operators: products of 8-bit inputs, as MatMulNBits has them
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "4")
    if upcast == "use":  # optimizing would fold the casts; any other order would upcast all at once
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.log_severity_level = 3  # errors reach the user as exceptions, not as log lines
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's exceptions share no narrower base
        reason = str(error).splitlines()[0]
        raise BundleError(
            f"{path}: ONNX Runtime {ort.__version__} cannot open it: {reason}; export it again"
        ) from None
    return OrtEngine(session)


class OrtEngine:
    """One graph; see ``Engine``."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """All outputs, in new arrays."""
        return list(self._session.run(None, inputs))

    def bind(self, inputs: Arrays, outputs: Arrays) -> Callable[[], None]:
        """A call on fixed arrays; on a CPU an OrtValue shares its numpy array's memory."""
        binding, session = self._session.io_binding(), self._session
        values = {id(array): ort.OrtValue.ortvalue_from_numpy(array) for array in inputs.values()}
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, values[id(array)])
        for name, array in outputs.items():
            value = values.get(id(array)) or ort.OrtValue.ortvalue_from_numpy(array)
            binding.bind_ortvalue_output(name, value)
        kept = (inputs, outputs)  # the binding holds bare pointers

        def call(_kept: tuple[Arrays, Arrays] = kept) -> None:
            session.run_with_iobinding(binding)

        return call
