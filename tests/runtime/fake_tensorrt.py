"""TensorRT on a fake GPU (fake_cuda.py): engines are ONNX graphs, computed by ONNX Runtime."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from tests.runtime.fake_cuda import FakeDriver

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
        self.is_capturable = True

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

    def is_stream_capturable(self, stream: int) -> bool:
        return self.engine.trt.is_capturable

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
