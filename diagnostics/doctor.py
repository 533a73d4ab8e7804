"""What this machine has, and where bundles can run on it: ``janus-edge doctor``."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnxruntime as ort

from janus_edge.diagnostics.machine import processor, read_rates
from janus_edge.runtime.backends.cpu_library import instructions
from janus_edge.runtime.backends.tensorrt_library import MODULES, import_library
from janus_edge.runtime.cuda import Cuda
from janus_edge.runtime.devices import PROVIDERS, Device, why_not
from janus_edge.runtime.driver import num_gpus
from janus_edge.runtime.errors import DeviceError
from janus_edge.runtime.manifest import Manifest
from janus_edge.runtime.resources import free_memory, num_processors

# Wheels that all hold the module onnxruntime: the last one installed has overwritten the others.
WHEELS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-migraphx",
)
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def machine() -> Iterator[tuple[str, str]]:
    """Yield what this machine has: names and what was found.

    This reads memory for about a second, to measure its bandwidth.
    """
    yield "system", f"{platform.machine()} {platform.system()}, Python {platform.python_version()}"
    yield "processor", f"{processor()}, {num_processors()} for this process; {_features()}"
    rates = sorted(read_rates())
    free = free_memory() / 1e9
    yield "memory", f"{free:.1f} GB free, read at {rates[len(rates) // 2] / 1e9:.0f} GB/s"
    ours = instructions() or "not here: no such processor, or not built"
    yield "CPU kernels", f"{ours} (4-bit bundles, docs/cpu-kernels.md)"
    known = {name: key for key, name in PROVIDERS.items()}
    providers = ", ".join(known.get(name, name) for name in ort.get_available_providers())
    yield "ONNX Runtime", f"{ort.__version__}, providers {providers}"
    if clash := wheels_clash(list(_installed())):
        yield "wheels", clash
    for name in MODULES:
        found = import_library(name)
        yield name, "not here" if found is None else str(found.__version__)
    yield from _gpus()


def bundle(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield each device, and "yes" or why the bundle cannot run there."""
    for kind in PROVIDERS:
        device = Device(kind)
        yield str(device), why_not(manifest, device) or "yes"


def wheels_clash(installed: list[str]) -> str | None:
    """Return what to do about several wheels of one module; None if there is at most one."""
    if len(installed) < 2:
        return None
    names = " and ".join(installed)
    wanted = next(name for name in installed if name != WHEELS[0])
    return (
        f"{names} hold the same files, and the last one installed has overwritten the others; "
        f"keep one: pip uninstall -y {' '.join(installed)}, then pip install {wanted}"
    )


def _installed() -> Iterator[str]:
    """Yield the installed wheels of ONNX Runtime."""
    for name in WHEELS:
        try:
            version(name)
        except PackageNotFoundError:
            continue
        yield name


def _features() -> str:
    """Return the processor's features that integer matmuls use."""
    if sys.platform != "linux":
        return "features unknown"
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    words = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return ", ".join(name for name in _FEATURES if name in words.split()) or "none of " + ", ".join(
        _FEATURES
    )


def _gpus() -> Iterator[tuple[str, str]]:
    """Yield the CUDA driver and each GPU, or why there is none."""
    try:
        driver, count = num_gpus()
    except DeviceError as error:
        yield "GPU", str(error)
        return
    yield "CUDA driver", f"{driver // 1000}.{driver % 1000 // 10}, {count} GPUs"
    for ordinal in range(count):
        try:
            gpu = Cuda(ordinal)
            free, total = gpu.memory()
        except DeviceError as error:
            yield f"cuda:{ordinal}", str(error)
            continue
        room = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        yield f"cuda:{ordinal}", f"{gpu.name}, sm_{gpu.capability}, {room}"
