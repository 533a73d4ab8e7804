"""Devices that a bundle can run on: the CPU, a GPU, or one of ONNX Runtime's other providers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from janus_edge.runtime.errors import DeviceError, OptionError
from janus_edge.runtime.manifest import Manifest

# ONNX Runtime's providers, by the device's name.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
}
AUTO = "auto"
DECODER_KERNEL = "attend"  # only bundles that our kernels run on a GPU have it
_DEVICE = re.compile(r"([a-z-]+)(?::(\d{1,3}))?")


@dataclass(frozen=True)
class Device:
    """A device that components run on.

    Attributes:
        kind: A name of ``PROVIDERS``.
        ordinal: Which of several devices of this kind, from 0 on.
    """

    kind: str = "cpu"
    ordinal: int = 0

    def __str__(self) -> str:
        """Return the name as a user gives it, such as "cuda:1"."""
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.ordinal}"


def parse_device(text: str) -> Device | None:
    """Return the device that a name such as "cuda:1" means, None for "auto".

    Raises:
        OptionError: There is no such name.
    """
    found = _DEVICE.fullmatch(text)
    if found is None or found[1] not in (AUTO, *PROVIDERS) or (found[1] == AUTO and found[2]):
        raise OptionError(
            f'device is "{text}"; give {AUTO}, {", ".join(PROVIDERS)}, or with a number, as cuda:1'
        )
    return None if found[1] == AUTO else Device(found[1], int(found[2] or 0))


def why_not(manifest: Manifest, device: Device) -> str | None:
    """Return why a bundle cannot run on a device.

    None if it can, as far as is known without trying.
    """
    kind = "cuda_kernels" if has_kernels(manifest, device) else _backend(manifest)
    return _WHY_NOT[kind](manifest, device)


def has_kernels(manifest: Manifest, device: Device) -> bool:
    """Return True if a bundle has GPU kernels for its decoder, and the device is such a GPU."""
    of_decoder = any(each.name == DECODER_KERNEL for each in manifest.kernels)
    return device.kind == "cuda" and of_decoder


def choose(manifest: Manifest, wanted: str) -> Device:
    """Return the device to run on: the wanted one, or for "auto" the first that can run the bundle.

    Args:
        manifest: The bundle's manifest.
        wanted: A device's name, or "auto".

    Raises:
        OptionError: There is no such name.
        DeviceError: The bundle cannot run there, or for "auto" nowhere.
    """
    device = parse_device(wanted)
    if device is not None:
        reason = why_not(manifest, device)
        if reason is not None:
            raise DeviceError(f"{manifest.name} on {device}: {reason}")
        return device
    reasons = []
    for each in (Device("cuda"), Device("cpu")):
        # A GPU runs graphs of standard operators; of other graphs it would leave most to the CPU.
        is_graph = _backend(manifest) == "onnxruntime" and not has_kernels(manifest, each)
        if each.kind == "cuda" and is_graph and not _portable(manifest):
            continue
        reason = why_not(manifest, each)
        if reason is None:
            return each
        reasons.append(f"on {each}: {reason}")
    raise DeviceError(f"{manifest.name} runs nowhere here: {'; '.join(reasons)}")


def _backend(manifest: Manifest) -> str:
    return manifest.components["decoder"].backend


def _portable(manifest: Manifest) -> bool:
    return all(part.target == "any" for part in manifest.components.values())


def _why_no_graphs(manifest: Manifest, device: Device) -> str | None:
    """Return why ONNX Runtime cannot run on a device, None if it can."""
    import onnxruntime as ort

    from janus_edge.runtime.driver import has_driver

    provider = PROVIDERS[device.kind]
    if provider in ort.get_available_providers():
        needs_driver = device.kind in ("cuda", "tensorrt", "tensorrt-rtx")
        return "no NVIDIA driver here" if needs_driver and not has_driver() else None
    wheel = _WHEELS.get(device.kind, "a build of ONNX Runtime with it")
    return f"no {provider} in this ONNX Runtime {ort.__version__}; install {wheel}"


def _why_no_engines(manifest: Manifest, device: Device) -> str | None:
    """Return why TensorRT engines cannot run on a device, None if they can."""
    from janus_edge.runtime.backends.tensorrt_library import import_library
    from janus_edge.runtime.cuda import Cuda

    if device.kind != "cuda":
        return "its engines are TensorRT's, for cuda; export it again for others"
    builder = manifest.components["decoder"].builder
    name = "tensorrt_rtx" if builder is None else builder.module
    trt = import_library(name)
    if trt is None:
        return f"no {name} here; run: pip install 'janus-edge[tensorrt]'"
    if builder is not None and trt.__version__ != builder.version:
        return f"built with {name} {builder.version}, here is {trt.__version__}; export it again"
    try:
        Cuda(device.ordinal)
    except DeviceError as error:
        return str(error)
    return None


def _why_no_kernels(manifest: Manifest, device: Device) -> str | None:
    """Return why a bundle's GPU kernels cannot run on a device, None if they can."""
    from janus_edge.runtime.backends.cubins import Kernels
    from janus_edge.runtime.cuda import Cuda

    try:
        Kernels.check(Cuda(device.ordinal), manifest)
    except DeviceError as error:
        return str(error)
    return None


_WHY_NOT: dict[str, Callable[[Manifest, Device], str | None]] = {
    "onnxruntime": _why_no_graphs,
    "tensorrt": _why_no_engines,
    "cuda_kernels": _why_no_kernels,
}
# Wheels of ONNX Runtime that have a provider; only one of them can be installed.
_WHEELS = {
    "cuda": "onnxruntime-gpu in place of onnxruntime",
    "tensorrt": "onnxruntime-gpu in place of onnxruntime",
    "directml": "onnxruntime-directml in place of onnxruntime",
    "openvino": "onnxruntime-openvino in place of onnxruntime",
    "qnn": "onnxruntime-qnn in place of onnxruntime",
}
