"""NVIDIA's driver through cuda-python: whether it is installed, and what its errors mean."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from janus_edge.runtime.errors import DeviceError


def has_driver() -> bool:
    """Return True if NVIDIA's driver is installed. Does not need cuda-python."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def num_gpus() -> tuple[int, int]:
    """Return the driver's CUDA version (13020 for 13.2) and how many GPUs it has.

    Raises:
        DeviceError: The driver is missing or reports an error.
    """
    driver = import_driver()
    found = []
    for function, arguments in _COUNTING:
        code, *results = getattr(driver, function)(*arguments)
        if int(code) != 0:
            raise DeviceError(f"{function}: {reason(driver, code)}")
        found += results
    version, count = found
    return int(version), int(count)


_COUNTING = (("cuInit", (0,)), ("cuDriverGetVersion", ()), ("cuDeviceGetCount", ()))


def import_driver() -> Any:
    """Return cuda-python's module of the driver API.

    Raises:
        DeviceError: No cuda-python, or no NVIDIA driver, is installed.
    """
    try:
        from cuda.bindings import driver

        driver.cuDriverGetVersion()
    except ImportError:
        raise DeviceError("no cuda-python; run: pip install 'janus-edge[cuda]'") from None
    except RuntimeError:  # cuda-python opens the driver's library at the first call
        raise DeviceError("no NVIDIA driver here; install one, or use --device cpu") from None
    return driver


def reason(driver: Any, code: Any) -> str:
    """Return CUDA's name of an error and its text.

    Args:
        driver: The module of the driver API.
        code: The error, as a function of the driver returned it.
    """
    found = [driver.cuGetErrorName(code), driver.cuGetErrorString(code)]
    return ": ".join((text or b"unknown").decode() for _, text in found)


def close_gpu(driver: Any, context: Any, device: Any, stream: Any) -> None:
    """Give a GPU back: its stream, and this process's use of its context.

    Args:
        driver: The module of the driver API.
        context: The GPU's primary context.
        device: The GPU.
        stream: The stream to destroy.
    """
    code, *_ = driver.cuCtxPushCurrent(context)
    if int(code) == 0:
        driver.cuStreamDestroy(stream)
        driver.cuCtxPopCurrent()
    driver.cuDevicePrimaryCtxRelease(device)
