"""Launch a bundle's GPU kernels through the driver alone: no Triton, no torch (docs/kernels.md)."""

from __future__ import annotations

import ctypes
import hashlib
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_edge.runtime.cuda import ALIGNMENT, Cuda, DeviceArray
from janus_edge.runtime.errors import BundleError, DeviceError
from janus_edge.runtime.limits import MOST_BYTES
from janus_edge.runtime.manifest import Kernel, Manifest
from janus_edge.runtime.reading import read_regular

_TYPES: dict[str, Any] = {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}
_MOST_CONSTANT = 65536
_SCRATCH = "*scratch"  # arguments of Triton's convention that our kernels do not use


@dataclass(frozen=True)
class Gpu:
    """A GPU and a bundle's kernels on it."""

    cuda: Cuda
    kernels: Kernels


class Kernels:
    """The kernels of a bundle that run on this GPU, each loaded when it is first launched."""

    def __init__(self, cuda: Cuda, folder: Path, kernels: tuple[Kernel, ...]) -> None:
        """Select the kernels that run on this GPU.

        Args:
            cuda: The GPU.
            folder: The bundle's folder.
            kernels: The manifest's kernels, for any GPU.
        """
        self._cuda, self._folder = cuda, folder
        self._found = {
            kernel.name: kernel
            for kernel in sorted(kernels, key=_capability)
            if _runs(kernel, cuda.capability)
        }
        self._targets = sorted({kernel.target for kernel in kernels})
        self._functions: dict[str, Any] = {}

    @classmethod
    def check(cls, cuda: Cuda, manifest: Manifest) -> None:
        """Raise DeviceError if a bundle has no kernels for a GPU, or an earlier version's."""
        names = {each.name for each in manifest.kernels if _runs(each, cuda.capability)}
        if "attend" in names and "attend_many" not in names:
            raise DeviceError(
                "its GPU kernels were exported by an earlier version; export it again"
            )
        if not names:
            targets = sorted({kernel.target for kernel in manifest.kernels})
            raise DeviceError(
                f"its GPU kernels are for {', '.join(targets)}, not for {cuda.name} "
                f"(sm_{cuda.capability}); export it again with --target sm_{cuda.capability}"
            )

    def launch(self, name: str, num_programs: int, *values: Any, overlaps: bool = False) -> None:
        """Send a launch to the stream.

        Args:
            name: The kernel.
            num_programs: Size of the grid.
            *values: The kernel's arguments in order: arrays on the device, and numbers.
            overlaps: What the stream was sent before this is a kernel, too. Then this one may
                begin before that one has ended, if it was compiled so (kernels/overlap.py).

        Raises:
            DeviceError: The bundle does not have the kernel for this GPU.
            BundleError: The kernel takes another number of arguments, or its file has changed.
        """
        kernel, function = self._open(name)
        types = [each for each in kernel.arguments if each != _SCRATCH]
        if len(types) != len(values):
            raise BundleError(
                f"{self._folder / kernel.file}: takes {len(types)} arguments, not {len(values)}; "
                "export the bundle again"
            )
        for value in values:
            assert not isinstance(value, DeviceArray) or value.address % ALIGNMENT == 0, name
        spare = len(kernel.arguments) - len(types)
        numbers = [v.address if isinstance(v, DeviceArray) else v for v in values] + [0] * spare
        ctypes_of = [_TYPES.get(each, ctypes.c_void_p) for each in kernel.arguments]
        given = tuple(numbers), tuple(ctypes_of)
        if overlaps and kernel.constants.get("OVERLAPS"):
            config = self._config(kernel, num_programs)
            self._cuda.call("cuLaunchKernelEx", config, function, given, 0)
            return
        self._cuda.call(
            "cuLaunchKernel",
            function,
            *(num_programs, 1, 1),
            *(kernel.threads, 1, 1),
            kernel.shared_bytes,
            self._cuda.stream,
            given,
            0,
        )

    def _config(self, kernel: Kernel, num_programs: int) -> Any:
        """Return a launch that may begin before the kernel before it has ended."""
        driver = self._cuda.driver
        early = driver.CUlaunchAttribute()
        early.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        early.value.programmaticStreamSerializationAllowed = 1
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = num_programs, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = kernel.threads, 1, 1
        config.sharedMemBytes, config.hStream = kernel.shared_bytes, self._cuda.stream
        config.attrs, config.numAttrs = [early], 1
        return config

    def constant(self, name: str, key: str) -> int:
        """Return a constant that a kernel was compiled with.

        Raises:
            BundleError: It has none of this name, or none from 1 to 65536.
            DeviceError: The bundle does not have the kernel for this GPU.
        """
        kernel, _ = self._open(name)
        value = kernel.constants.get(key, 0)
        if not 1 <= value <= _MOST_CONSTANT:
            raise BundleError(
                f"{self._folder / kernel.file}: {key} is {value}; export the bundle again"
            )
        return int(value)

    def require(self, name: str, key: str, value: int) -> None:
        """Check that a kernel was compiled for a size.

        Args:
            name: The kernel.
            key: The constant of the kernel.
            value: What the constant must be.

        Raises:
            BundleError: It was compiled for another value.
            DeviceError: The bundle does not have the kernel for this GPU.
        """
        kernel, _ = self._open(name)
        if kernel.constants.get(key) != value:
            raise BundleError(
                f"{self._folder / kernel.file}: compiled for {key} {kernel.constants.get(key)}, "
                f"not {value}; export the bundle again"
            )

    def _image(self, kernel: Kernel) -> bytes:
        """Return a kernel's code. It is hashed again: the bundle may have been opened hours ago."""
        path = self._folder / kernel.file
        try:
            image = read_regular(path, MOST_BYTES["kernel"])
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror}; copy the bundle again") from None
        if hashlib.sha256(image).hexdigest() != kernel.sha256:
            raise BundleError(
                f"{path}: is another file since the bundle was opened; open the bundle again"
            )
        return image

    def _open(self, name: str) -> tuple[Kernel, Any]:
        """Return a kernel with its loaded function."""
        kernel = self._found.get(name)
        if kernel is None and self._found:
            raise BundleError(
                f"{self._folder}: no kernel {name}: it was exported by an earlier version; export "
                "it again"
            )
        if kernel is None:
            cuda = self._cuda
            raise DeviceError(
                f"{self._folder}: no kernel {name} for cuda:{cuda.ordinal} ({cuda.name}, "
                f"sm_{cuda.capability}), only {', '.join(self._targets) or 'none'}; export the "
                f"bundle again with --target sm_{cuda.capability}"
            )
        if name not in self._functions:
            image = self._image(kernel)
            module = self._cuda.call("cuModuleLoadData", image)
            weakref.finalize(self, self._cuda.release, "cuModuleUnload", module)
            symbol = kernel.symbol.encode()
            function = self._cuda.call("cuModuleGetFunction", module, symbol)
            if kernel.shared_bytes > 48 * 1024:  # CUDA's default limit
                which = self._cuda.driver.CUfunction_attribute
                self._cuda.call(
                    "cuFuncSetAttribute",
                    function,
                    which.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    kernel.shared_bytes,
                )
            self._functions[name] = function
        return kernel, self._functions[name]


def _capability(kernel: Kernel) -> int:
    return int(kernel.target.removeprefix("sm_"))


def _runs(kernel: Kernel, capability: int) -> bool:
    """Return True if a kernel's code runs on a GPU of this compute capability.

    Code runs on its own generation of GPUs, from its own version on. But Triton's code for 9.0 and
    later uses what only that very version has, and Jetson's 8.7 runs only its own code.
    """
    made = _capability(kernel)
    if made >= 90 or 87 in (made, capability):
        return made == capability
    return made // 10 == capability // 10 and made <= capability
