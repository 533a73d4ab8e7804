"""A GPU on the host: CUDA's driver and our kernels, for the loops that run on them.

It keeps a record of every call and does what each asks for: memory is numpy's, a stream does what
it is sent as late as it may, when something waits for it; kernels are their references' arithmetic.
What it cannot show is anything about the real thing: that has to run on a GPU.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np

from janus_edge.runtime import sampling
from janus_edge.runtime.decode import Drafts
from tests.runtime import fake_decoder

CUresult = IntEnum(
    "CUresult",
    {"CUDA_SUCCESS": 0, "CUDA_ERROR_OUT_OF_MEMORY": 2, "CUDA_ERROR_ILLEGAL_ADDRESS": 700},
)
OK = CUresult.CUDA_SUCCESS
_WITHOUT_CONTEXT = (
    *("cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetAttribute"),
    *("cuDeviceGetName", "cuDevicePrimaryCtxRetain", "cuGetErrorName", "cuGetErrorString"),
    *("cuCtxSetCurrent", "cuCtxPushCurrent", "cuDevicePrimaryCtxRelease"),
)
_IN_THE_STREAM = (
    *("cuLaunchKernel", "cuLaunchKernelEx", "cuMemcpyDtoDAsync", "cuMemcpyHtoDAsync"),
    *("cuMemcpyDtoHAsync", "cuMemsetD8Async", "cuGraphLaunch", "cuStreamBeginCapture"),
)
POISON = 0xDB  # what freed memory holds


class FakeDriver:
    """``cuda.bindings.driver``. failing: a function's name to the code it returns."""

    CUresult = CUresult
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=75,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=76,
    )
    CUfunction_attribute = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8)
    CUlaunchAttributeID = SimpleNamespace(CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION=6)
    CUlaunchConfig = SimpleNamespace
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def __init__(self, capability: int = 89, total: int = 2**30) -> None:
        self.capability, self.total = capability, total
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.failing: dict[str, CUresult] = {}
        self.failing_from: dict[str, str] = {}  # ... only once another was called
        self.memory: dict[int, np.ndarray] = {}
        self.hosts: dict[int, np.ndarray] = {}
        self.freed: list[np.ndarray] = []  # kept, so that no later block has their addresses
        self.count = 1  # GPUs
        self.constants: dict[str, dict[str, Any]] = {}  # what kernels were compiled with, by name
        self.kernels: dict[str, Callable[..., None]] = {}  # in place of the references
        self.is_unsound = False  # logits are no numbers
        self.contexts: dict[int, int] = {}  # retained, by device
        self.streams: set[int] = set()
        self._recorded: list[Callable[[], None]] | None = None
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._next = 1
        self._clock = 0.0
        self.events: dict[int, float] = {}
        self.modules: set[int] = set()
        self.functions: dict[int, tuple[int, str]] = {}  # module and symbol
        self._thread = threading.local()
        self._queue: list[Callable[[], None]] = []
        self._is_draining = False

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not name.startswith("cu"):
            return found

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, arguments))
            if name not in _WITHOUT_CONTEXT:
                assert getattr(self._thread, "context", None), f"{name}: this thread has no GPU"
            after = self.failing_from.get(name)
            if name in self.failing and (after is None or after in self.names()):
                return (self.failing[name], None)
            result = found(*arguments)
            if isinstance(result, CUresult):
                return (result, None)
            return (OK,) if result is None else (OK, *result)

        return call

    def names(self) -> list[str]:
        """What was called, in order."""
        return [name for name, _ in self.calls]

    def held(self) -> int:
        """Bytes in use."""
        return sum(block.nbytes for block in self.memory.values())

    @property
    def is_capturing(self) -> bool:
        return self._recorded is not None

    def send(self, work: Callable[[], None]) -> None:
        """Put it into the stream, or record it while that is captured."""
        (self._queue if self._recorded is None else self._recorded).append(work)

    def drain(self, event: int | None = None) -> None:
        """Do what is in the stream, up to an event, or all: as late as a device may."""
        self._is_draining = True
        try:
            while self._queue and (event is None or event not in self.events):
                self._clock += 1.0
                self._queue.pop(0)()
        finally:
            self._is_draining = False

    def at(self, address: int, dtype: Any, count: int) -> np.ndarray:
        """Numbers at an address, which must lie in memory that was given."""
        size = np.dtype(dtype).itemsize * count
        for start, block in self.memory.items():
            if start <= address and address + size <= start + block.nbytes:
                return block[address - start :][:size].view(dtype)
        raise AssertionError(f"{size} bytes at {address}: not allocated")

    def CUlaunchAttribute(self) -> SimpleNamespace:
        return SimpleNamespace(value=SimpleNamespace())

    def _id(self) -> int:
        self._next += 1
        return self._next

    # the driver's functions: None, or what follows their code
    def cuInit(self, flags: int) -> None: ...
    def cuDriverGetVersion(self) -> tuple[int]:
        return (13000,)

    def cuDeviceGetCount(self) -> tuple[int]:
        return (self.count,)

    def cuDeviceGet(self, ordinal: int) -> tuple[int]:
        return (ordinal,)

    def cuDeviceGetAttribute(self, which: int, device: int) -> tuple[int]:
        return (self.capability // 10 if which == 75 else self.capability % 10,)

    def cuDeviceGetName(self, size: int, device: int) -> tuple[bytes]:
        return (b"Fake RTX\0\0",)

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[int]:
        self.contexts[device] = self.contexts.get(device, 0) + 1
        return (1000 + device,)

    def cuDevicePrimaryCtxRelease(self, device: int) -> None:
        self.contexts[device] -= 1

    def cuCtxSetCurrent(self, context: int) -> None:
        self._thread.context = context

    def cuCtxGetCurrent(self) -> tuple[int]:
        return (getattr(self._thread, "context", 0),)

    def cuCtxPushCurrent(self, context: int) -> None:
        self._thread.before = getattr(self._thread, "context", 0)
        self._thread.context = context

    def cuCtxPopCurrent(self) -> tuple[int]:
        popped, self._thread.context = self._thread.context, self._thread.before
        return (popped,)

    def cuStreamCreate(self, flags: int) -> tuple[int]:
        self.streams.add(self._id())
        return (self._next,)

    def cuStreamDestroy(self, stream: int) -> None:
        self.streams.remove(stream)

    def cuStreamSynchronize(self, stream: int) -> None:
        assert self._recorded is None, "a captured stream cannot be waited for"
        self.drain()

    def cuGetErrorName(self, code: CUresult) -> tuple[bytes]:
        return (code.name.encode(),)

    def cuGetErrorString(self, code: CUresult) -> tuple[bytes]:
        return (code.name.lower().replace("_", " ").encode(),)

    def cuMemGetInfo(self) -> tuple[int, int]:
        return self.total - self.held(), self.total

    def cuMemAlloc(self, size: int) -> tuple[int] | CUresult:
        assert self._recorded is None, "no memory is given inside of a capture"
        if self.held() + size > self.total:
            return CUresult.CUDA_ERROR_OUT_OF_MEMORY
        block = np.full(size + 256, 0xAB, np.uint8)  # never zeros by chance
        start = -block.ctypes.data % 256
        block = block[start : start + size]
        self.memory[block.ctypes.data] = block
        return (block.ctypes.data,)

    def cuMemFree(self, address: int) -> None:
        assert self._recorded is None, "freeing memory ends a capture"

        def free() -> None:
            block = self.memory.pop(address)
            block.fill(POISON)  # what still reads it draws something else
            self.freed.append(block)

        # It waits for the device. A collector may free memory inside of a kernel's arithmetic: what
        # is in the stream behind that must not overtake it.
        self.send(free)
        if not self._is_draining:
            self.drain()

    def cuMemAllocHost(self, size: int) -> tuple[int]:
        block = np.zeros(size, np.uint8)
        self.hosts[block.ctypes.data] = block
        return (block.ctypes.data,)

    def cuMemFreeHost(self, address: int) -> None:
        del self.hosts[address]

    def cuMemsetD8Async(self, address: int, value: int, size: int, stream: int) -> None:
        self.send(lambda: self.at(address, np.uint8, size).fill(value))

    def cuMemcpyHtoDAsync(self, target: int, source: int, size: int, stream: int) -> None:
        assert self._recorded is None, "what a captured copy reads on the host would be gone"
        host = (ctypes.c_uint8 * size).from_address(source)

        def copy() -> None:  # what is there by then
            self.at(target, np.uint8, size)[:] = np.frombuffer(host, np.uint8)

        self.send(copy)

    def cuMemcpyDtoHAsync(self, target: int, source: int, size: int, stream: int) -> None:
        self.send(
            lambda: (
                ctypes.memmove(target, self.at(source, np.uint8, size).ctypes.data, size) and None
            )
        )

    def cuMemcpyDtoDAsync(self, target: int, source: int, size: int, stream: int) -> None:
        def copy() -> None:
            self.at(target, np.uint8, size)[:] = self.at(source, np.uint8, size)

        self.send(copy)

    def cuEventCreate(self, flags: int) -> tuple[int]:
        return (self._id(),)

    def cuEventRecord(self, event: int, stream: int) -> None:
        self.send(lambda: self.events.update({event: self._clock}))

    def cuEventSynchronize(self, event: int) -> None:
        self.drain(event)

    def cuEventDestroy(self, event: int) -> None: ...
    def cuEventElapsedTime(self, start: int, end: int) -> tuple[float]:
        return (self.events[end] - self.events[start],)

    def cuStreamBeginCapture(self, stream: int, mode: int) -> None:
        assert self._recorded is None
        self._recorded = []

    def cuStreamEndCapture(self, stream: int) -> tuple[int]:
        assert self._recorded is not None
        graph, self._recorded = self._recorded, None
        self._graphs[self._id()] = graph
        return (self._next,)

    def cuGraphInstantiate(self, graph: int, flags: int) -> tuple[int]:
        self._graphs[self._id()] = self._graphs[graph]
        return (self._next,)

    def cuGraphDestroy(self, graph: int) -> None:
        del self._graphs[graph]

    def cuGraphExecDestroy(self, graph: int) -> None:
        del self._graphs[graph]

    def cuGraphLaunch(self, graph: int, stream: int) -> None:
        for work in self._graphs[graph]:
            self.send(work)

    def cuModuleLoadData(self, image: bytes) -> tuple[int]:
        assert image[:4] == b"\x7fELF", "not a cubin"
        self.modules.add(self._id())
        return (self._next,)

    def cuModuleUnload(self, module: int) -> None:
        self.modules.remove(module)

    def cuModuleGetFunction(self, module: int, symbol: bytes) -> tuple[int]:
        self.functions[self._id()] = module, symbol.decode()
        return (self._next,)

    def cuFuncSetAttribute(self, function: int, which: int, value: int) -> None: ...
    def cuLaunchKernelEx(
        self, config: SimpleNamespace, function: int, given: Any, extra: int
    ) -> None:
        """A launch that may begin before the kernel before it ends: that must be a kernel."""
        (early,) = config.attrs
        assert (early.id, config.numAttrs) == (6, 1)
        assert early.value.programmaticStreamSerializationAllowed == 1
        before = next(name for name in self.names()[-2::-1] if name in _IN_THE_STREAM)
        assert before in ("cuLaunchKernel", "cuLaunchKernelEx"), before
        assert config.hStream in self.streams
        grid = config.gridDimX, config.gridDimY, config.gridDimZ
        block = config.blockDimX, config.blockDimY, config.blockDimZ
        shared = config.sharedMemBytes
        FakeDriver.cuLaunchKernel(self, function, *grid, *block, shared, 0, given, extra)

    def cuLaunchKernel(self, function: int, *words: Any) -> None:
        *grid, threads, _, _, _, _, (values, types), extra = words
        assert extra == 0 and len(values) == len(types) and threads % 32 == 0
        for value, kind in zip(values, types, strict=True):
            kind(value)  # refuses what does not fit
        module, symbol = self.functions[function]
        kernel = (self.kernels or KERNELS)[symbol]

        def run() -> None:
            assert module in self.modules, symbol
            kernel(self, grid[0], *values)

        self.send(run)


def _sample(
    driver: FakeDriver,
    programs: int,
    logits: int,
    codes: int,
    seeds: int,
    positions: int,
    scales: int,
    top_ks: int,
    stream: int,
    images: int,
    *scratch: int,
) -> None:
    scale, temperature = driver.at(scales, np.float32, 2).tolist()
    (top_k,), size = driver.at(top_ks, np.int32, 1).tolist(), driver.codebook_size
    rows = images if scale == 1.0 else 2 * images
    x = driver.at(logits, np.float32, rows * size).reshape(rows, size)
    if scale != 1.0:
        x = sampling.guide(x[:images], x[images:], scale)
    keys = driver.at(seeds, np.uint64, images)
    places = driver.at(positions, np.int64, images)
    noise = np.concatenate(
        [
            sampling.gumbel(keys[i : i + 1], places[i : i + 1], size, stream)[:, 0]
            for i in range(images)
        ]
    )
    drawn = driver.at(codes, np.int64, images)
    drawn[:] = -1 if driver.is_unsound else sampling.choose(x, noise, temperature, top_k)


def _look_up(
    driver: FakeDriver,
    programs: int,
    codes: int,
    table: int,
    embeds: int,
    drawn: int,
    positions: int,
    row_positions: int,
    row_lengths: int,
    images: int,
    rows: int,
    num_codes: int,
    *scratch: int,
) -> None:
    width = driver.width
    chosen, at = driver.at(codes, np.int64, images), driver.at(positions, np.int64, images)
    vectors = np.stack(
        [driver.at(table + 2 * width * max(int(c), 0), np.float16, width) for c in chosen]
    )
    out = driver.at(embeds, np.float32, rows * width).reshape(rows, width)
    out[:] = np.tile(vectors, (rows // images, 1))
    pages = driver.at(drawn, np.int64, images * num_codes).reshape(images, num_codes)
    for image in range(images):
        if at[image] < num_codes:
            pages[image, at[image]] = chosen[image]
    at += 1
    lengths = driver.at(row_lengths, np.int64, rows)
    driver.at(row_positions, np.int64, rows)[:] = lengths
    lengths += 1


def _take(
    driver: FakeDriver,
    programs: int,
    chosen: int,
    table: int,
    embeds: int,
    *words: int,
) -> None:
    """Accept codes by ``runtime.decode.Drafts``."""
    *pointers, num_chosen, positions, images, rows, num = words[:13]
    width, reach = driver.width, num + positions
    sizes = images * reach, images, images * num, images, images * positions
    sizes = (*sizes, rows * positions, rows, rows)
    arrays = [driver.at(each, np.int64, n) for each, n in zip(pointers, sizes, strict=True)]
    drawn, counts, ends, passes, places, row_positions, lengths, prompts = arrays
    codes = driver.at(chosen, np.int64, images * num_chosen).reshape(images, num_chosen)
    drafts = Drafts(drawn.reshape(images, reach), counts, num)
    accepted = drafts.take(codes)
    ends.reshape(images, num)[np.arange(images), passes] = counts
    passes += 1
    steps = np.arange(positions)
    places.reshape(images, positions)[:] = counts[:, None] + steps
    repeats = rows // images
    starts = (prompts.reshape(repeats, images) + counts - 1).reshape(rows, 1)
    lengths[:] = starts[:, 0] + positions
    row_positions.reshape(rows, positions)[:] = starts + steps
    given = np.clip(accepted[:, None] - 1 + steps, 0, num_chosen - 1)
    read = np.maximum(np.take_along_axis(codes, given, 1), 0)
    vectors = [driver.at(table + 2 * width * code, np.float16, width) for code in read.ravel()]
    made = np.tile(np.stack(vectors).reshape(1, -1), (repeats, 1))
    driver.at(embeds, np.float32, made.size)[:] = made.ravel()


def _flow_update(
    driver: FakeDriver,
    programs: int,
    latents: int,
    velocities: int,
    before: int,
    denoised: int,
    table: int,
    steps: int,
    times: int,
    images: int,
    *scratch: int,
) -> None:
    assert images == programs == 1
    size, step = driver.latent_size, driver.at(steps, np.int64, 1)
    scale, multistep_weight, length, rest, stop = driver.at(
        table + 20 * int(step[0]), np.float32, 5
    )
    v = driver.at(velocities, np.float32, size).copy()
    if scale != 1.0:
        v = sampling.guide(v, driver.at(velocities + 4 * size, np.float32, size), float(scale))
    slope, past = v, driver.at(before, np.float32, size)
    if multistep_weight != 0.0:
        slope = v + multistep_weight * (v - past)
    z = driver.at(latents, np.float32, size)
    z += length * slope
    past[:] = v
    driver.at(denoised, np.float32, size)[:] = z + rest * v
    step += 1
    driver.at(times, np.float32, 1)[:] = stop


KERNELS: dict[str, Callable[..., None]] = {
    "sample_kernel": _sample,
    "look_up_kernel": _look_up,
    "take_kernel": _take,
    "flow_update_kernel": _flow_update,
    **fake_decoder.KERNELS,
}
