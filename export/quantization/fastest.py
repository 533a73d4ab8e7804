"""The preset that runs fastest on this machine, the default of an export (docs/quantization.md)."""

from __future__ import annotations

from janus_edge.runtime.backends.cpu_library import library


def fastest_preset() -> tuple[str, str]:
    """Return a preset's name and why it is the fastest here.

    With the CPU kernels, 4 bits are the fastest for one row and for many. Without them, ONNX
    Runtime computes many rows sooner with a second copy of the decoder.
    """
    if library() is not None:
        return "int4", "the fastest here, as the CPU kernels run on this processor"
    return "int4-int8", "the fastest here, as the CPU kernels do not run on this processor"
