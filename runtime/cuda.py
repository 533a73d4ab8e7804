"""A GPU through CUDA's driver API (cuda-python): memory, one stream, events, captured graphs.

Every return code is checked. All work goes to one stream, in order. ``synchronize``,
``Event.wait`` and freeing memory wait for it.
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

from janus_edge.runtime.driver import close_gpu, import_driver, reason
from janus_edge.runtime.errors import DeviceError, DeviceWarning

ADVICE = "draw fewer images at once, close other programs on the GPU, or use --device cpu"
_ITEM_BYTES = {"bfloat16": 2}  # numpy does not have it
_NON_BLOCKING = 1
ALIGNMENT = 16  # bytes, of every address that a kernel gets, so that it loads 16 at once


class DeviceArray:
    """Memory on the GPU, freed with its last user.

    Attributes:
        shape: Of the array.
        dtype: As the manifest names it.
        nbytes: Its size, bytes.
        address: On the device.
    """

    def __init__(self, cuda: Cuda, shape: Sequence[int], dtype: str, what: str = "") -> None:
        """Allocate memory, not cleared; ``what`` names it in the DeviceError if it is short."""
        self.shape, self.dtype = tuple(shape), dtype
        self._owner: DeviceArray | None = None  # the array that owns a view's memory
        count = int(np.prod(self.shape, dtype=np.int64))
        self.nbytes = max(1, count * item_bytes(dtype))
        self.address = cuda.allocate(self.nbytes, what)
        weakref.finalize(self, cuda.release, "cuMemFree", self.address)

    def view(self, shape: Sequence[int], offset: int = 0) -> DeviceArray:
        """Return a part, ``offset`` numbers from the start; it keeps the memory alive."""
        made = object.__new__(DeviceArray)
        made.shape, made.dtype, size = tuple(shape), self.dtype, item_bytes(self.dtype)
        made.nbytes = int(np.prod(made.shape, dtype=np.int64)) * size
        made.address, made._owner = self.address + offset * size, self
        assert offset * size + made.nbytes <= self.nbytes, (shape, offset, self.shape)
        return made


def item_bytes(dtype: str) -> int:
    """Return the bytes of one number of a dtype."""
    return _ITEM_BYTES.get(dtype) or np.dtype(dtype).itemsize


class Event:
    """A point in the stream."""

    def __init__(self, cuda: Cuda) -> None:
        """Record the event in the stream, after all work sent so far."""
        self._cuda = cuda
        self.handle = cuda.call("cuEventCreate", 0)
        cuda.call("cuEventRecord", self.handle, cuda.stream)
        weakref.finalize(self, cuda.release, "cuEventDestroy", self.handle)

    def wait(self) -> None:
        """Wait until the stream has passed the event."""
        self._cuda.call("cuEventSynchronize", self.handle)

    def ms_since(self, earlier: Event) -> float:
        """Return the device time since an earlier event, ms; the stream has passed both."""
        return float(self._cuda.call("cuEventElapsedTime", earlier.handle, self.handle))


class Cuda:
    """One GPU. Not for several threads.

    Attributes:
        ordinal: Which GPU.
        name: Of the GPU.
        capability: Compute capability, 90 for 9.0.
        stream: The one stream.
        make_room: Called when memory is short; frees what is only kept for reuse.
        driver: The module of the driver API.
    """

    def __init__(self, ordinal: int = 0, driver: Any = None) -> None:
        """Open a GPU; ``driver`` is a module of the driver API, by default cuda-python's.

        Raises:
            DeviceError: There is no such GPU, or no driver.
        """
        self.driver = driver or import_driver()
        self.ordinal = ordinal
        self.make_room: Callable[[], None] | None = None
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
        # Not at exit, which frees everything anyway: other libraries may still use the GPU then.
        weakref.finalize(self, close_gpu, *closing).atexit = False

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function of the driver and return its results. Raises DeviceError."""
        self.enter()
        code, *results = getattr(self.driver, function)(*arguments)
        if int(code) != 0:
            raise DeviceError(f"cuda:{self.ordinal}: {function}: {reason(self.driver, code)}")
        return results[0] if len(results) == 1 else tuple(results)

    def enter(self) -> None:
        """Make the GPU current in this thread. Raises DeviceError.

        In CUDA each thread has one current GPU or none, and others of this process may have changed
        it.
        """
        if self._context is not None:
            code, *_ = self.driver.cuCtxSetCurrent(self._context)
            if int(code) != 0:
                why = reason(self.driver, code)
                raise DeviceError(f"cuda:{self.ordinal}: cuCtxSetCurrent: {why}")

    def memory(self) -> tuple[int, int]:
        """Return the GPU's free and total memory, bytes."""
        free, total = self.call("cuMemGetInfo")
        return int(free), int(total)

    def allocate(self, num_bytes: int, what: str = "") -> int:
        """Return the address of new memory; ``what`` names it in the DeviceError if it is short."""
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
        """Return the error for so many bytes of memory that are not there."""
        free, total = self.memory()
        needed = f"{num_bytes / 1e6:.0f} MB{f' for {what}' if what else ''} needed"
        return DeviceError(
            f"cuda:{self.ordinal} ({self.name}): out of memory: {needed}, {free / 1e6:.0f} of "
            f"{total / 1e6:.0f} MB free; {ADVICE}"
        )

    def release(self, function: str, handle: Any) -> None:
        """Free a handle whose last user is gone; during a capture, free it afterwards.

        A free would end the capture. Errors are ignored: nobody would see them, and the next call
        returns those that matter. The thread's current GPU stays, as this may run amid another's
        work.
        """
        if self._waiting is not None:
            self._waiting.append((function, handle))
            return
        code, *_ = self.driver.cuCtxPushCurrent(self._context)
        if int(code) == 0:
            getattr(self.driver, function)(handle)
            self.driver.cuCtxPopCurrent()

    def array(self, shape: Sequence[int], dtype: str, what: str = "") -> DeviceArray:
        """Return new memory, not cleared."""
        return DeviceArray(self, shape, dtype, what)

    def zeros(self, shape: Sequence[int], dtype: str, what: str = "") -> DeviceArray:
        """Return new memory, cleared."""
        made = DeviceArray(self, shape, dtype, what)
        self.call("cuMemsetD8Async", made.address, 0, made.nbytes, self.stream)
        return made

    def upload(self, target: DeviceArray, source: np.ndarray) -> None:
        """Copy from the host; the source must not change until ``synchronize``."""
        held = np.ascontiguousarray(source, target.dtype)
        self._sent.append(held)  # with memory that host and GPU share, the copy may come later
        assert held.nbytes == target.nbytes, (held.shape, target.shape)
        self.call("cuMemcpyHtoDAsync", target.address, held.ctypes.data, held.nbytes, self.stream)

    def uploaded(self, source: np.ndarray, dtype: str | None = None) -> DeviceArray:
        """Return new memory with a copy of an array."""
        made = self.array(source.shape, dtype or source.dtype.name)
        self.upload(made, source)
        return made

    def download(self, target: np.ndarray, source: DeviceArray) -> None:
        """Copy to the host; the copy is complete when the stream has passed it."""
        assert target.nbytes == source.nbytes and target.flags.c_contiguous
        self.call(
            "cuMemcpyDtoHAsync", target.ctypes.data, source.address, source.nbytes, self.stream
        )

    def copy(self, target: int, source: int, num_bytes: int) -> None:
        """Copy bytes on the device, between addresses."""
        self.call("cuMemcpyDtoDAsync", target, source, num_bytes, self.stream)

    def pinned(self, shape: Sequence[int], dtype: str) -> np.ndarray:
        """Return pinned host memory, which the GPU reaches without the host's help."""
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
        """Wait for all work at the end of the block, before any memory is freed.

        After an error in the block, that error is raised, not one of the waiting.
        """
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
        """Return a function that sends ``work`` again as one launch; ``work`` does not run now.

        If it cannot be captured, return ``work`` itself and warn (DeviceWarning).
        """
        try:
            if not is_capturable():
                raise DeviceError("an engine says that its work cannot be captured")
            return self._captured(work)
        except DeviceError as error:
            warnings.warn(f"steps are sent bit by bit: {error}", DeviceWarning, stacklevel=2)
            return work

    def _captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture ``work`` in a CUDA graph and return what launches it."""
        relaxed = self.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        was_collecting = gc.isenabled()
        gc.disable()  # freeing what TensorRT holds would also end the capture
        self._waiting = []
        try:
            self.call("cuStreamBeginCapture", self.stream, relaxed)
            try:
                work()
            except BaseException:
                self.driver.cuStreamEndCapture(self.stream)  # the first error counts
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

        def launch(_work: Callable[[], None] = work) -> None:  # keeps the graph's memory alive
            self.call("cuGraphLaunch", executable, self.stream)

        weakref.finalize(launch, self.release, "cuGraphExecDestroy", executable)
        return launch
