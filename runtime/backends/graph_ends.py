"""Check that a graph has the inputs and outputs that its manifest says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from janus_edge.runtime.errors import BundleError
from janus_edge.runtime.manifest import Component, Tensor

_TYPES = {"float32": "float", "float16": "float16", "bfloat16": "bfloat16"}


def check_ends(path: Path, component: Component, session: Any) -> None:
    """Compare a graph's inputs and outputs with the manifest.

    Args:
        path: The graph, for the error.
        component: What the manifest says.
        session: An ONNX Runtime session of the graph.

    Raises:
        BundleError: They differ, so it is another graph or one that no loop can run. Names the
            first difference.
    """
    for what, found, wanted in (
        ("inputs", session.get_inputs(), component.inputs),
        ("outputs", session.get_outputs(), component.outputs),
    ):
        has = [(end.name, end.type, tuple(end.shape)) for end in found]
        needs = [(end.name, _type(end), end.shape) for end in wanted]
        if has != needs:
            pairs = zip((*has, None), (*needs, None), strict=False)
            end, need = next((a, b) for a, b in pairs if a != b)
            raise BundleError(
                f"{path}: {what}: has {_shown(end)}, the manifest says {_shown(need)}; export the "
                "bundle again"
            )


def _type(end: Tensor) -> str:
    return f"tensor({_TYPES.get(end.dtype, end.dtype)})"


def _shown(end: tuple[str, str, tuple[Any, ...]] | None) -> str:
    if end is None:
        return "no more"
    name, kind, shape = end
    return f"{name[:80]!r} {kind}[{','.join(str(dim)[:20] for dim in shape)}]"
