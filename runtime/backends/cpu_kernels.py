"""The backend of our C library: components in 4 and 8 bits, executed without a graph.

It runs where the processor has the instructions and the package was built with a C compiler
(docs/cpu-kernels.md).
"""

from __future__ import annotations

from typing import Any

from janus_edge.runtime.backends import Engine, Shared, cpu_decoder, cpu_head, cpu_images
from janus_edge.runtime.backends.cpu_decoder import CpuDecoder
from janus_edge.runtime.backends.cpu_head import CpuHead
from janus_edge.runtime.backends.cpu_images import CpuEncoder, CpuImageDecoder
from janus_edge.runtime.backends.cpu_library import library
from janus_edge.runtime.bundle import Bundle
from janus_edge.runtime.manifest import Manifest

# By component: the module that tells whether it runs the component, and the class of its engine.
_ENGINES: dict[str, tuple[Any, Any]] = {
    "decoder": (cpu_decoder, CpuDecoder),
    "image_head": (cpu_head, CpuHead),
    "text_head": (cpu_head, CpuHead),
    "vision_encoder": (cpu_images, CpuEncoder),
    "vision_aligner": (cpu_head, CpuHead),
    "image_decoder": (cpu_images, CpuImageDecoder),
}


def runs(name: str, manifest: Manifest) -> bool:
    """Return True if this component of a bundle can be executed here."""
    if name not in _ENGINES or library() is None:
        return False
    module, _ = _ENGINES[name]
    return bool(module.runs(manifest.components[name], manifest.sizes))


def load(bundle: Bundle, name: str, shared: Shared) -> Engine:
    """Open a component; its weights are mapped, not read.

    Args:
        bundle: The bundle.
        name: The component.
        shared: What the session's engines share.

    Raises:
        BundleError: A weight is missing or lies outside the file.
    """
    _, kind = _ENGINES[name]
    manifest = bundle.manifest
    engine: Engine = kind(bundle.folder, manifest.components[name], manifest.sizes, shared.pool)
    return engine
