"""The backend ``cpu_kernels``: components that our C library computes without a graph.

It needs a processor with the instructions and a package that was built with a C compiler
(docs/cpu-kernels.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from janus_edge.runtime.backends import Engine, cpu_decoder, cpu_head
from janus_edge.runtime.backends.cpu_decoder import CpuDecoder
from janus_edge.runtime.backends.cpu_head import CpuHead
from janus_edge.runtime.backends.cpu_library import Pool, library
from janus_edge.runtime.manifest import Manifest

# By component: the module that tells whether it runs the component, and the class of its engine.
_KINDS: dict[str, tuple[Any, Any]] = {
    "decoder": (cpu_decoder, CpuDecoder),
    "image_head": (cpu_head, CpuHead),
    "text_head": (cpu_head, CpuHead),
}


def runs(name: str, manifest: Manifest) -> bool:
    """Return True if this component of a bundle can be opened here."""
    if name not in _KINDS or library() is None:
        return False
    module, _ = _KINDS[name]
    return bool(module.runs(manifest.components[name], manifest.sizes))


def load(name: str, folder: Path, manifest: Manifest, pool: Pool) -> Engine:
    """Open a component; its weights are mapped, not read.

    Args:
        name: The component.
        folder: The bundle's folder.
        manifest: The bundle's manifest.
        pool: The threads.

    Raises:
        BundleError: A weight is missing or lies outside the file.
    """
    _, kind = _KINDS[name]
    engine: Engine = kind(folder, manifest.components[name], manifest.sizes, pool)
    return engine
