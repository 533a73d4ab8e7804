"""A GPU through CUDA's driver API (cuda-python): memory, one stream, events, kernels, captured
graphs. Every return code is checked.

All work goes to one stream, in order; what waits for it is ``synchronize``, ``Event.wait`` and the
freeing of memory.
"""

from __future__ import annotations

import ctypes
import gc
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from janus_edge.runtime.driver import import_driver, reason
from janus_edge.runtime.errors import DeviceError, DeviceWarning

ADVICE = "draw fewer images at once, close other programs on the GPU, or use --device cpu"
_ITEM_BYTES = {"bfloat16": 2}  # what numpy does not know
_NON_BLOCKING = 1
ALIGNMENT = 16  # bytes, of every address that a kernel gets: it then loads 16 at once


class DeviceArray:
    """Memory on the GPU, freed with its last user. ``dtype`` as the manifest names it."""

    def __init__(self, cuda: Cuda, shape: Sequence[int], dtype: str, what: str = "") -> None:
        """Raises DeviceError where there is no room; what: names the memory then."""
        self.shape, self.dtype = tuple(shape), dtype
        self._owner: DeviceArray | None = None  # of the memory, where it is another's
        count = int(np.prod(self.shape, dtype=np.int64))
        self.nbytes = max(1, count * item_bytes(dtype))
        self.address = cuda.allocate(self.nbytes, what)
        weakref.finalize(self, cuda.release, "cuMemFree", self.address)

    def view(self, shape: Sequence[int], offset: int = 0) -> DeviceArray:
        """A part of it, from so many numbers on; the memory stays as long as this does."""
        made = object.__new__(DeviceArray)
        made.shape, made.dtype, size = tuple(shape), self.dtype, item_bytes(self.dtype)
        made.nbytes = int(np.prod(made.shape, dtype=np.int64)) * size
        made.address, made._owner = self.address + offset * size, self
        assert offset * size + made.nbytes <= self.nbytes, (shape, offset, self.shape)
        return made


def item_bytes(dtype: str) -> int:
    """Of one number."""
    return _ITEM_BYTES.get(dtype) or np.dtype(dtype).itemsize


class Event:
    """A place in the stream."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.handle = cuda.call("cuEventCreate", 0)
        cuda.call("cuEventRecord", self.handle, cuda.stream)
        weakref.finalize(self, cuda.release, "cuEventDestroy", self.handle)

    def wait(self) -> None:
        """Until the stream has come here."""
        self._cuda.call("cuEventSynchronize", self.handle)

    def ms_since(self, earlier: Event) -> float:
        """Device time from an earlier event; both must have been passed."""
        return float(self._cuda.call("cuEventElapsedTime", earlier.handle, self.handle))


class Cuda:
    """One GPU. Not for several threads."""

    def __init__(self, ordinal: int = 0, driver: Any = None) -> None:
        """driver: module of the driver API; default: cuda-python's. Raises DeviceError where there
        is no such GPU, or no driver."""
        self.driver = driver or import_driver()
        self.ordinal = ordinal
        self.make_room: Callable[[], None] | None = None  # gives back what is merely kept
        self._context: Any = None
        self._waiting: list[tuple[str, Any]] | None = None
        self._sent: list[np.ndarray] = []
        self.call("cuInit", 0)
        count = self.call("cuDeviceGetCount")
        if ordinal >= count:
            raise DeviceError(f"cuda:{ordinal}: there are {count} GPUs; give one from 0 on")
        self._device = self.call("cuDeviceGet", ordinal)
        attribute = self.driver.CUdevice_attribute
        major, minor = (
            self.call("cuDeviceGetAttribute", which, self._device)
            for which in (
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self.capability = 10 * major + minor
        self.name = self.call("cuDeviceGetName", 256, self._device).split(b"\0")[0].decode()
        self._context = self.call("cuDevicePrimaryCtxRetain", self._device)
        try:
            self.stream = self.call("cuStreamCreate", _NON_BLOCKING)
        except DeviceError:
            self.driver.cuDevicePrimaryCtxRelease(self._device)
            raise
        closing = (self.driver, self._context, self._device, self.stream)
        # Not at the end of the process, which frees all: other libraries may still be at work then.
        weakref.finalize(self, _close, *closing).atexit = False

    def call(self, function: str, *arguments: Any) -> Any:
        """A function of the driver; what it returns beside its code. Raises DeviceError."""
        self.enter()
        code, *results = getattr(self.driver, function)(*arguments)
        if int(code) != 0:
            raise DeviceError(f"cuda:{self.ordinal}: {function}: {reason(self.driver, code)}")
        return results[0] if len(results) == 1 else tuple(results)

    def enter(self) -> None:
        """Make the GPU this thread's: for CUDA each thread has one, or none, and others of this
        process may have changed which."""
        if self._context is not None:
            code, *_ = self.driver.cuCtxSetCurrent(self._context)
            if int(code) != 0:
                why = reason(self.driver, code)
                raise DeviceError(f"cuda:{self.ordinal}: cuCtxSetCurrent: {why}")

    def memory(self) -> tuple[int, int]:
        """Bytes free, and of all."""
        free, total = self.call("cuMemGetInfo")
        return int(free), int(total)

    def allocate(self, num_bytes: int, what: str = "") -> int:
        """An address. Raises DeviceError, with what was asked for and what is there."""
        self.enter()
        full = self.driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY
        code, *results = self.driver.cuMemAlloc(num_bytes)
        if code == full and self.make_room is not None:
            self.make_room()
            code, *results = self.driver.cuMemAlloc(num_bytes)
        if code == full:
            raise self.out_of_memory(num_bytes, what)
        if int(code) != 0:
            raise DeviceError(f"cuda:{self.ordinal}: cuMemAlloc: {reason(self.driver, code)}")
        return int(results[0])

    def out_of_memory(self, num_bytes: int, what: str = "") -> DeviceError:
        """What to raise where so much is needed."""
        free, total = self.memory()
        needed = f"{num_bytes / 1e6:.0f} MB{f' for {what}' if what else ''} needed"
        return DeviceError(
            f"cuda:{self.ordinal} ({self.name}): out of memory: {needed}, {free / 1e6:.0f} of "
            f"{total / 1e6:.0f} MB free; {ADVICE}"
        )

    def release(self, function: str, handle: Any) -> None:
        """Give something back, as its last user goes, but not inside of a capture, which that would
        end; nobody would be there to hear of an error, and the next call returns those that
        matter. The thread's GPU stays what it was: this may run in the middle of another's work."""
        if self._waiting is not None:
            self._waiting.append((function, handle))
            return
        code, *_ = self.driver.cuCtxPushCurrent(self._context)
        if int(code) == 0:
            getattr(self.driver, function)(handle)
            self.driver.cuCtxPopCurrent()

    def array(self, shape: Sequence[int], dtype: str, what: str = "") -> DeviceArray:
        """Memory, as it is."""
        return DeviceArray(self, shape, dtype, what)

    def zeros(self, shape: Sequence[int], dtype: str, what: str = "") -> DeviceArray:
        """Memory, cleared."""
        made = DeviceArray(self, shape, dtype, what)
        self.call("cuMemsetD8Async", made.address, 0, made.nbytes, self.stream)
        return made

    def upload(self, target: DeviceArray, source: np.ndarray) -> None:
        """Copy from the host; the source must not change until ``synchronize``."""
        held = np.ascontiguousarray(source, target.dtype)
        self._sent.append(held)  # where memory is shared, the copy may come later
        assert held.nbytes == target.nbytes, (held.shape, target.shape)
        self.call("cuMemcpyHtoDAsync", target.address, held.ctypes.data, held.nbytes, self.stream)

    def uploaded(self, source: np.ndarray, dtype: str | None = None) -> DeviceArray:
        """New memory with a copy of an array."""
        made = self.array(source.shape, dtype or source.dtype.name)
        self.upload(made, source)
        return made

    def download(self, target: np.ndarray, source: DeviceArray) -> None:
        """Copy to the host; there once the stream has come here."""
        assert target.nbytes == source.nbytes and target.flags.c_contiguous
        self.call(
            "cuMemcpyDtoHAsync", target.ctypes.data, source.address, source.nbytes, self.stream
        )

    def copy(self, target: int, source: int, num_bytes: int) -> None:
        """Copy on the device, between addresses."""
        self.call("cuMemcpyDtoDAsync", target, source, num_bytes, self.stream)

    def pinned(self, shape: Sequence[int], dtype: str) -> np.ndarray:
        """Host memory that copies reach without the host's help."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self.call("cuMemAllocHost", size))
        held = (ctypes.c_uint8 * size).from_address(address)
        weakref.finalize(held, self.release, "cuMemFreeHost", address)
        return np.ctypeslib.as_array(held).view(dtype).reshape(shape)

    def synchronize(self) -> None:
        """Wait for all work."""
        self.call("cuStreamSynchronize", self.stream)
        self._sent.clear()

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Wait for all work at the end of the block, before any memory goes. After an error in the
        block that error counts, not what the driver says of the waiting."""
        try:
            yield
        except BaseException:
            with suppress(DeviceError):
                self.synchronize()
            raise
        self.synchronize()

    def capture(
        self, work: Callable[[], None], is_capturable: Callable[[], bool] = lambda: True
    ) -> Callable[[], None]:
        """What ``work`` sends to the stream, to be sent again as one launch; it is not run now.
        Where that cannot be captured, ``work`` itself, with a warning (DeviceWarning)."""
        try:
            if not is_capturable():
                raise DeviceError("an engine says that its work cannot be captured")
            return self._captured(work)
        except DeviceError as error:
            warnings.warn(f"steps are sent bit by bit: {error}", DeviceWarning, stacklevel=2)
            return work

    def _captured(self, work: Callable[[], None]) -> Callable[[], None]:
        relaxed = self.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        was_collecting = gc.isenabled()
        gc.disable()  # or it would free what TensorRT holds, which ends a capture, too
        self._waiting = []
        try:
            self.call("cuStreamBeginCapture", self.stream, relaxed)
            try:
                work()
            except BaseException:
                self.driver.cuStreamEndCapture(self.stream)  # what went wrong before counts
                raise
            graph = self.call("cuStreamEndCapture", self.stream)
        finally:
            if was_collecting:
                gc.enable()
            given_back, self._waiting = self._waiting, None
            for function, handle in given_back:
                self.release(function, handle)
        try:
            executable = self.call("cuGraphInstantiate", graph, 0)
        finally:
            self.driver.cuGraphDestroy(graph)

        def launch(_work: Callable[[], None] = work) -> None:  # the graph holds bare addresses
            self.call("cuGraphLaunch", executable, self.stream)

        weakref.finalize(launch, self.release, "cuGraphExecDestroy", executable)
        return launch


def _close(driver: Any, context: Any, device: Any, stream: Any) -> None:
    """Give a GPU back: its stream, and this process's part in its context."""
    code, *_ = driver.cuCtxPushCurrent(context)
    if int(code) == 0:
        driver.cuStreamDestroy(stream)
        driver.cuCtxPopCurrent()
    driver.cuDevicePrimaryCtxRelease(device)
