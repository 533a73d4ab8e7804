"""Does an exported component compute what PyTorch computes? If not, the export fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from janus_edge.export.components import Component
from janus_edge.runtime.backends import load_engine

TOLERANCE = 1e-4  # of the reference's largest value, fp32


class ParityError(Exception):
    """An exported component differs from its reference. One line, with the component and error."""


def check_parity(component: Component, path: Path) -> float:
    """Run the file on every example; the largest relative error. Raises ParityError."""
    engine = load_engine("onnxruntime", path, 0)
    worst = 0.0
    for feeds in component.examples:
        outputs = engine.run(feeds)
        references = component.reference(feeds)
        for name, output, reference in zip(component.outputs, outputs, references, strict=True):
            error = relative_error(output, reference)
            if not error <= TOLERANCE:
                shapes = {key: value.shape for key, value in feeds.items() if "past" not in key}
                raise ParityError(
                    f"{component.name}: {name} differs from PyTorch by {error:.1e} of its largest "
                    f"value (allowed {TOLERANCE:.0e}) for {shapes}"
                )
            worst = max(worst, error)
    return worst


def relative_error(output: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference over the reference's largest value; for integers, the part that differs.

    Infinite when shapes differ or either is not finite.
    """
    if output.shape != reference.shape:
        return float("inf")
    if np.issubdtype(reference.dtype, np.integer):
        return float(np.mean(output != reference))
    if not (np.isfinite(output).all() and np.isfinite(reference).all()):
        return float("inf")
    difference = float(np.abs(output.astype(np.float64) - reference).max())
    return difference / max(float(np.abs(reference).max()), 1e-12)
