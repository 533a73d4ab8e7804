"""Components that our own library computes without a graph, where the processor has the
instructions and the package was built with a C compiler (docs/cpu-kernels.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from janus_edge.runtime.backends import Engine, cpu_decoder, cpu_head
from janus_edge.runtime.backends.cpu_decoder import CpuDecoder
from janus_edge.runtime.backends.cpu_head import CpuHead
from janus_edge.runtime.backends.cpu_library import Pool, library
from janus_edge.runtime.manifest import Manifest

# By component: the module that says whether it runs one, and what it opens.
_KINDS: dict[str, tuple[Any, Any]] = {
    "decoder": (cpu_decoder, CpuDecoder),
    "image_head": (cpu_head, CpuHead),
    "text_head": (cpu_head, CpuHead),
}


def runs(name: str, manifest: Manifest) -> bool:
    """Whether this component of a bundle can be opened here."""
    if name not in _KINDS or library() is None:
        return False
    module, _ = _KINDS[name]
    return bool(module.runs(manifest.components[name], manifest.sizes))


def load(name: str, folder: Path, manifest: Manifest, pool: Pool) -> Engine:
    """Map a component's weights. Raises BundleError if one is missing or lies outside the file."""
    _, kind = _KINDS[name]
    engine: Engine = kind(folder, manifest.components[name], manifest.sizes, pool)
    return engine
