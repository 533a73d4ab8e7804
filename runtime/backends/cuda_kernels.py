"""The backend of our GPU kernels: the decoder and the heads, without TensorRT and without torch.

It runs on NVIDIA GPUs for which the bundle has kernels (docs/kernels.md). The other components of
such a bundle run on the CPU.
"""

from __future__ import annotations

from janus_edge.runtime.backends import Engine, Shared
from janus_edge.runtime.backends.cuda_decoder import WHAT, CudaDecoder
from janus_edge.runtime.backends.cuda_head import KERNELS, CudaHead
from janus_edge.runtime.backends.cuda_weights import DeviceWeights
from janus_edge.runtime.bundle import Bundle
from janus_edge.runtime.devices import DECODER_KERNEL
from janus_edge.runtime.manifest import Manifest


def runs(name: str, manifest: Manifest) -> bool:
    """Return True if a bundle has the kernels of this component."""
    wanted = DECODER_KERNEL if name == "decoder" else KERNELS.get(name, ("",))[-1]
    return any(each.name == wanted for each in manifest.kernels)


def load(bundle: Bundle, name: str, shared: Shared) -> Engine:
    """Open a component: its weights are copied to the GPU.

    Args:
        bundle: The bundle.
        name: The component.
        shared: What the session's engines share.

    Raises:
        BundleError: A weight is missing or lies outside the file.
        DeviceError: The GPU has no room, or the bundle has no kernels for it.
    """
    sizes, component = bundle.manifest.sizes, bundle.manifest.components[name]
    gpu = shared.gpu(bundle)
    weights = DeviceWeights(gpu, bundle.folder, component, WHAT if name == "decoder" else name)
    if name == "decoder":
        return CudaDecoder(gpu, weights, sizes)
    head = CudaHead(gpu, weights, name, sizes.hidden_size)
    weights.require(head.outputs == component.outputs[0].shape[-1])
    return head
