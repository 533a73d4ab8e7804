"""Does an exported component compute what PyTorch computes? If not, the export fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from janus_edge.export.component import Component, Feeds
from janus_edge.runtime.backends import load_engine

TOLERANCE = 1e-4  # of the reference's largest value, fp32


class ParityError(Exception):
    """An exported component differs from its reference. One line, with the component and error."""


def check_parity(
    component: Component,
    path: Path,
    widen: str,
    examples: list[Feeds],
    references: list[list[np.ndarray]],
) -> float:
    """Run the file on every example; the largest error. Raises ParityError."""
    engine = load_engine("onnxruntime", path, num_threads=0, widen=widen)
    worst = 0.0
    for feeds, expected in zip(examples, references, strict=True):
        outputs = engine.run(feeds)
        for name, output, reference in zip(component.outputs, outputs, expected, strict=True):
            error = component.error(output, reference)
            if not error <= TOLERANCE:
                shapes = {key: value.shape for key, value in feeds.items() if "past" not in key}
                raise ParityError(
                    f"{component.name}: {name} differs from PyTorch by {error:.1e} of its largest "
                    f"value (allowed {TOLERANCE:.0e}) for {shapes}"
                )
            worst = max(worst, error)
    return worst
