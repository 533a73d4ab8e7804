"""A GPU on the host: CUDA's driver, TensorRT and our kernels, for the loops that run on them.

It keeps a record of every call and does what each asks for: memory is numpy's, a stream does what
it is sent as late as it may, when something waits for it; engines are ONNX graphs, computed by ONNX
Runtime; kernels are their references' arithmetic. What it cannot show is anything about the real
thing: that has to run on a GPU.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from janus_edge.runtime import sampling

CUresult = IntEnum(
    "CUresult",
    {"CUDA_SUCCESS": 0, "CUDA_ERROR_OUT_OF_MEMORY": 2, "CUDA_ERROR_ILLEGAL_ADDRESS": 700},
)
OK = CUresult.CUDA_SUCCESS
_WITHOUT_CONTEXT = (
    *("cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetAttribute"),
    *("cuDeviceGetName", "cuDevicePrimaryCtxRetain", "cuGetErrorName", "cuGetErrorString"),
    "cuCtxSetCurrent",
)


class FakeDriver:
    """``cuda.bindings.driver``. failing: a function's name to the code it returns."""

    CUresult = CUresult
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=75,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=76,
    )
    CUfunction_attribute = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def __init__(self, capability: int = 89, total: int = 2**30) -> None:
        self.capability, self.total = capability, total
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.failing: dict[str, CUresult] = {}
        self.memory: dict[int, np.ndarray] = {}
        self.hosts: dict[int, np.ndarray] = {}
        self._recorded: list[Callable[[], None]] | None = None
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._next = 1
        self._clock = 0.0
        self.events: dict[int, float] = {}
        self.functions: dict[int, str] = {}
        self._thread = threading.local()
        self._queue: list[Callable[[], None]] = []

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not name.startswith("cu"):
            return found

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, arguments))
            if name not in _WITHOUT_CONTEXT:
                assert getattr(self._thread, "context", None), f"{name}: this thread has no GPU"
            if name in self.failing:
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
        while self._queue and (event is None or event not in self.events):
            self._clock += 1.0
            self._queue.pop(0)()

    def at(self, address: int, dtype: Any, count: int) -> np.ndarray:
        """Numbers at an address, which must lie in memory that was given."""
        size = np.dtype(dtype).itemsize * count
        for start, block in self.memory.items():
            if start <= address and address + size <= start + block.nbytes:
                return block[address - start :][:size].view(dtype)
        raise AssertionError(f"{size} bytes at {address}: not allocated")

    def _id(self) -> int:
        self._next += 1
        return self._next

    # the driver's functions: None, or what follows their code
    def cuInit(self, flags: int) -> None: ...
    def cuDriverGetVersion(self) -> tuple[int]:
        return (13000,)

    def cuDeviceGetCount(self) -> tuple[int]:
        return (1,)

    def cuDeviceGet(self, ordinal: int) -> tuple[int]:
        return (ordinal,)

    def cuDeviceGetAttribute(self, which: int, device: int) -> tuple[int]:
        return (self.capability // 10 if which == 75 else self.capability % 10,)

    def cuDeviceGetName(self, size: int, device: int) -> tuple[bytes]:
        return (b"Fake RTX\0\0",)

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[int]:
        return (self._id(),)

    def cuCtxSetCurrent(self, context: int) -> None:
        self._thread.context = context

    def cuStreamCreate(self, flags: int) -> tuple[int]:
        return (self._id(),)

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
        self.drain()  # it waits for the device
        del self.memory[address]

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
        return (self._id(),)

    def cuModuleGetFunction(self, module: int, symbol: bytes) -> tuple[int]:
        self.functions[self._id()] = symbol.decode()
        return (self._next,)

    def cuFuncSetAttribute(self, function: int, which: int, value: int) -> None: ...
    def cuLaunchKernel(self, function: int, *words: Any) -> None:
        *grid, threads, _, _, _, _, (values, types), extra = words
        assert extra == 0 and len(values) == len(types) and threads % 32 == 0
        for value, kind in zip(values, types, strict=True):
            kind(value)  # refuses what does not fit
        kernel = _KERNELS[self.functions[function]]
        self.send(lambda: kernel(self, grid[0], *values))


def _sample(
    driver: FakeDriver,
    programs: int,
    logits: int,
    codes: int,
    seeds: int,
    positions: int,
    scale: float,
    temperature: float,
    top_k: int,
    stream: int,
    pictures: int,
    size: int,
    *scratch: int,
) -> None:
    rows = pictures if scale == 1.0 else 2 * pictures
    x = driver.at(logits, np.float32, rows * size).reshape(rows, size)
    if scale != 1.0:
        x = sampling.guide(x[:pictures], x[pictures:], scale)
    keys = driver.at(seeds, np.uint64, pictures)
    places = driver.at(positions, np.int64, pictures)
    noise = np.concatenate(
        [
            sampling.gumbel(keys[i : i + 1], places[i : i + 1], size, stream)[:, 0]
            for i in range(pictures)
        ]
    )
    driver.at(codes, np.int64, pictures)[:] = sampling.choose(x, noise, temperature, top_k)


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
    pictures: int,
    rows: int,
    num_codes: int,
    *scratch: int,
) -> None:
    width = driver.width
    chosen, at = driver.at(codes, np.int64, pictures), driver.at(positions, np.int64, pictures)
    vectors = np.stack([driver.at(table + 2 * width * int(c), np.float16, width) for c in chosen])
    out = driver.at(embeds, np.float32, rows * width).reshape(rows, width)
    out[:] = np.tile(vectors, (rows // pictures, 1))
    pages = driver.at(drawn, np.int64, pictures * num_codes).reshape(pictures, num_codes)
    for picture in range(pictures):
        if at[picture] < num_codes:
            pages[picture, at[picture]] = chosen[picture]
    at += 1
    lengths = driver.at(row_lengths, np.int64, rows)
    driver.at(row_positions, np.int64, rows)[:] = lengths
    lengths += 1


def _flow_update(
    driver: FakeDriver,
    programs: int,
    latents: int,
    velocities: int,
    before: int,
    clean: int,
    table: int,
    steps: int,
    times: int,
    pictures: int,
    *scratch: int,
) -> None:
    assert pictures == programs == 1
    size, step = driver.latent_size, driver.at(steps, np.int64, 1)
    scale, lean, length, rest, stop = driver.at(table + 20 * int(step[0]), np.float32, 5)
    v = driver.at(velocities, np.float32, size).copy()
    if scale != 1.0:
        v = sampling.guide(v, driver.at(velocities + 4 * size, np.float32, size), float(scale))
    slope, past = v, driver.at(before, np.float32, size)
    if lean != 0.0:
        slope = v + lean * (v - past)
    z = driver.at(latents, np.float32, size)
    z += length * slope
    past[:] = v
    driver.at(clean, np.float32, size)[:] = z + rest * v
    step += 1
    driver.at(times, np.float32, 1)[:] = stop


_KERNELS: dict[str, Callable[..., None]] = {
    "sample_kernel": _sample,
    "look_up_kernel": _look_up,
    "flow_update_kernel": _flow_update,
}
_TYPES = {1: np.float32, 7: np.int64, 10: np.float16}


class FakeTensorRT:
    """The module ``tensorrt_rtx``, whose engines are ONNX graphs; profiles: of each engine, in its
    order, by the graph's name."""

    __name__ = "tensorrt_rtx"
    IRuntimeCache = object
    TensorIOMode = SimpleNamespace(INPUT=0, OUTPUT=1)
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED=2)
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER=1, NONE=2)

    class ILogger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

    def __init__(self, driver: FakeDriver, version: str, profiles: dict[str, Any]) -> None:
        self.driver, self.__version__, self.profiles = driver, version, profiles
        self.refuse = lambda: ""  # why executing says no, if it does
        self.contexts: list[Any] = []

    def nptype(self, kind: int) -> Any:
        return _TYPES[kind]

    def Runtime(self, logger: Any) -> Any:
        return SimpleNamespace(
            deserialize_cuda_engine=lambda raw: _Engine(self, logger, raw) if raw else None
        )


class _Engine:
    def __init__(self, trt: FakeTensorRT, logger: Any, raw: bytes) -> None:
        self.trt, self.logger = trt, logger
        graph = onnx.load_model_from_string(raw).graph
        self.name = graph.name
        self.ends = {value.name: value.type.tensor_type for value in (*graph.input, *graph.output)}
        self.inputs = [value.name for value in graph.input]
        self.outputs = [value.name for value in graph.output]
        self.profiles = list(trt.profiles[_key(self.inputs)].values())
        self.num_io_tensors, self.num_optimization_profiles = len(self.ends), len(self.profiles)
        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        self.session = ort.InferenceSession(raw, options, providers=["CPUExecutionProvider"])

    def get_tensor_name(self, index: int) -> str:
        return list(self.ends)[index]

    def get_tensor_mode(self, name: str) -> int:
        return int(name in self.outputs)

    def get_tensor_dtype(self, name: str) -> int:
        return int(self.ends[name].elem_type)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        ranges = self.profiles[index]
        return [
            tuple(
                ranges[dim.dim_param][i] if dim.dim_param else dim.dim_value
                for dim in self.ends[name].shape.dim
            )
            for i in range(3)
        ]

    def create_runtime_config(self) -> Any:
        cache = SimpleNamespace(deserialize=lambda raw: True, serialize=lambda: b"compiled")
        return SimpleNamespace(
            create_runtime_cache=lambda: cache,
            set_runtime_cache=lambda cache: True,
            set_execution_context_allocation_strategy=lambda strategy: None,
        )

    def create_execution_context(self, config: Any) -> Any:
        self.trt.contexts.append(_Context(self))
        return self.trt.contexts[-1]


class _Context:
    """Runs the graph on what lies at the addresses."""

    def __init__(self, engine: _Engine) -> None:
        self.engine, self.shapes, self.addresses = engine, {}, {}
        self.profile, self.memory = None, 0

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.get_tensor_profile_shape(name, self.profile)
        self.shapes[name] = tuple(shape)
        return all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        sizes: dict[str, int] = {}
        for given, shape in self.shapes.items():
            for dim, size in zip(self.engine.ends[given].shape.dim, shape, strict=True):
                sizes[dim.dim_param] = size
        dims = self.engine.ends[name].shape.dim
        return tuple(sizes[dim.dim_param] if dim.dim_param else dim.dim_value for dim in dims)

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % 256 == 0, f"{name} is not aligned"
        self.addresses[name] = address
        return name in self.engine.ends

    def update_device_memory_size_for_shapes(self) -> int:
        assert set(self.shapes) == set(self.engine.inputs)
        return 4096

    def set_device_memory(self, address: int, size: int) -> None:
        self.memory = address

    def execute_async_v3(self, stream: int) -> bool:
        trt = self.engine.trt
        if reason := trt.refuse():
            self.engine.logger.log(1, reason)
            return False
        assert self.memory and set(self.addresses) == set(self.engine.ends)
        trt.driver.send(self._run)
        return True

    def _array(self, name: str) -> np.ndarray:
        shape = self.get_tensor_shape(name)
        dtype = _TYPES[self.engine.get_tensor_dtype(name)]
        found = self.engine.trt.driver.at(self.addresses[name], dtype, int(np.prod(shape)))
        return found.reshape(shape)

    def _run(self) -> None:
        for name in self.engine.outputs:
            if name.startswith("present_"):
                past = name.replace("present_", "past_")
                assert self.addresses[name] == self.addresses[past], "caches are updated in place"
        feeds = {name: self._array(name).copy() for name in self.engine.inputs}
        for name, made in zip(
            self.engine.outputs, self.engine.session.run(None, feeds), strict=True
        ):
            self._array(name)[...] = made


def _key(inputs: list[str]) -> str:
    """What an engine is known by: its first inputs, which differ from component to component."""
    return " ".join(inputs[:2])
