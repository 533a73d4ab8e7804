"""The backend ``tensorrt``: TensorRT and TensorRT-RTX on a GPU.

A binding is an execution context of its own, for one optimization profile and fixed addresses,
with as much scratch memory as its shapes need. What TensorRT-RTX compiles for the GPU when it
first opens an engine is kept beside the bundle.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from janus_edge.runtime.backends import Arrays, Buffers, Shared
from janus_edge.runtime.backends.on_device import bound
from janus_edge.runtime.backends.tensorrt_library import MODULES, import_library, make_logger
from janus_edge.runtime.bundle import COMPILED, Bundle
from janus_edge.runtime.cuda import Cuda, DeviceArray
from janus_edge.runtime.errors import BundleError, DeviceError, OptionError
from janus_edge.runtime.files import atomic_write
from janus_edge.runtime.kv_cache import is_cache

_KEPT_SHAPES = 4  # how many input shapes ``run`` keeps bindings for


def load(bundle: Bundle, name: str, shared: Shared) -> TensorRTEngine:
    """Open a component's engine file.

    Raises:
        BundleError: The manifest does not say what built the engine.
        DeviceError: What built it is missing, of another version, or cannot open it on this GPU.
    """
    path, builder, cuda = bundle.path(name), bundle.manifest.components[name].builder, shared.cuda
    if builder is None:
        raise BundleError(f"{path}: the manifest does not say what built it; export it again")
    trt = import_library(builder.module)
    if trt is None:
        also = "" if builder.module == MODULES[0] else " of your JetPack or server"
        raise DeviceError(
            f"{path}: needs {builder.module} {builder.version}{also}; run: pip install "
            f"'janus-edge[tensorrt]'"
        )
    if trt.__version__ != builder.version:
        raise DeviceError(
            f"{path}: built with {builder.module} {builder.version}, here is {trt.__version__}; "
            f"install {builder.version}, or export the bundle again with this one"
        )
    logger = make_logger(trt)
    cuda.enter()  # TensorRT uses the thread's current GPU
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        reason = next(iter(logger.errors), "no reason given")
        if "memory" in reason.lower():
            raise cuda.out_of_memory(path.stat().st_size, f"{path.name}'s weights")
        raise DeviceError(
            f"{path}: {builder.module} cannot open it on cuda:{cuda.ordinal} ({cuda.name}, "
            f"sm_{cuda.capability}): {reason}; export the bundle again with --target "
            f"sm_{cuda.capability}"
        )
    return TensorRTEngine(trt, (runtime, logger), engine, path, cuda)


class TensorRTEngine:
    """An engine of TensorRT; see ``Engine``. Arrays may be on the host or on the device."""

    def __init__(
        self, trt: Any, kept: tuple[Any, Any], engine: Any, path: Path, cuda: Cuda
    ) -> None:
        """Keep an engine with what it needs: ``kept`` is its runtime and its logger."""
        self._trt, self._kept, self._engine, self._path = trt, kept, engine, path
        self._cuda = cuda
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        mode = trt.TensorIOMode
        self._inputs = [n for n in names if engine.get_tensor_mode(n) == mode.INPUT]
        self._outputs = [n for n in names if engine.get_tensor_mode(n) == mode.OUTPUT]
        self._runs: dict[Any, tuple[Arrays, Arrays, Callable[[], None]]] = {}
        self._check = _Checks(path, cuda, kept[1])
        self._cache = _runtime_cache(trt, engine, _cache_file(trt, path, cuda))
        if self._cache is not None:
            weakref.finalize(self, _keep, self._cache, _cache_file(trt, path, cuda), cuda)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """Return cleared memory on the device."""
        return self._cuda.zeros(shape, dtype, f"{self._path.stem}'s keys and values")

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Return all outputs, in new arrays."""
        shapes = tuple((name, array.shape) for name, array in inputs.items())
        if shapes not in self._runs:
            context = self._context(dict(shapes), often=False)
            given = {name: np.empty_like(array) for name, array in inputs.items()}
            made: Arrays = {}
            for name in self._outputs:
                dtype = self._trt.nptype(self._engine.get_tensor_dtype(name))
                made[name] = np.empty(tuple(context.get_tensor_shape(name)), dtype)
            del context
            if len(self._runs) == _KEPT_SHAPES:
                self._runs.pop(next(iter(self._runs)))
            self._runs[shapes] = given, made, self.bind(given, made)
        given, made, call = self._runs[shapes]
        for name, array in inputs.items():
            given[name][...] = array
        call()
        return [made[name].copy() for name in self._outputs]

    def bind(
        self, inputs: Buffers, outputs: Buffers, *, often: bool = True, last_only: bool = False
    ) -> Callable[[], None]:
        """Return a call on fixed arrays; it returns when their results are there."""
        prepare = partial(self.prepare_enqueue, often=often)
        return bound(self._cuda, self._path.stem, prepare, inputs, outputs)

    def prepare_enqueue(
        self,
        inputs: Mapping[str, DeviceArray],
        outputs: Mapping[str, DeviceArray],
        *,
        often: bool = True,
    ) -> EnqueueCall:
        """Return a call that sends the work to the stream and does not wait for it.

        ``often`` is that of ``bind``, and True if the call is to be captured.
        """
        arrays, check = {**inputs, **outputs}, self._check
        shapes = {name: array.shape for name, array in inputs.items()}
        context = self._context(shapes, often)
        for name, array in arrays.items():
            check(context.set_tensor_address(name, array.address), f"the address of {name}")
        kept = (arrays, self._scratch(context), self._kept, self._engine)
        return EnqueueCall(context, check, kept)

    def _context(self, shapes: dict[str, tuple[int, ...]], often: bool) -> Any:
        """Return a context for the narrowest profile that holds the shapes; raise OptionError."""
        missing = set(self._inputs) - set(shapes)
        if missing:
            raise BundleError(f"{self._path}: also takes {', '.join(sorted(missing))}")
        self._cuda.enter()
        engine, index = self._engine, self._profile(shapes)
        user_managed = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(engine, "create_runtime_config"):
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(user_managed)
            if self._cache is not None:
                config.set_runtime_cache(self._cache)
                when = self._trt.DynamicShapesKernelSpecializationStrategy
                # Never lazily in the background: when that is done, a seed draws another image.
                strategy = when.EAGER if often else when.NONE
                config.dynamic_shapes_kernel_specialization_strategy = strategy
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context(user_managed)
        self._check(context is not None, "a context")
        try:
            chosen = context.set_optimization_profile_async(index, int(self._cuda.stream))
        except RuntimeError:
            chosen = False
        self._check(chosen, f"profile {index}")
        for name, shape in shapes.items():
            self._check(context.set_input_shape(name, shape), f"{name} of shape {shape}")
        return context

    def _profile(self, shapes: dict[str, tuple[int, ...]]) -> int:
        """Return the number of the narrowest profile that holds the shapes."""
        fitting = []
        for index in range(self._engine.num_optimization_profiles):
            size, fits = 1, True
            for name, shape in shapes.items():
                least, _, most = self._engine.get_tensor_profile_shape(name, index)
                fits &= all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True))
                size *= math.prod(most)
            if fits:
                fitting.append((size, index))
        if not fitting:
            shown = ", ".join(f"{n} {s}" for n, s in shapes.items() if not is_cache(n))
            raise OptionError(
                f"{self._path}: not built for {shown}; ask for less at once, or export the bundle "
                "with a larger --max-length"
            )
        return min(fitting)[1]

    def _scratch(self, context: Any) -> DeviceArray | None:
        """Allocate the memory that the context computes in."""
        size = int(context.update_device_memory_size_for_shapes())
        if not size:
            return None
        memory = self._cuda.array((size,), "uint8", f"{self._path.stem}'s scratch memory")
        context.set_device_memory(memory.address, size)
        return memory


@dataclass(frozen=True)
class EnqueueCall:
    """A binding, which sends its work when it is called. ``kept``: what it reads and writes."""

    context: Any
    check: _Checks
    kept: tuple[Any, ...]

    def __call__(self) -> None:
        """Send the work. Raises DeviceError if the engine refuses."""
        cuda = self.check.cuda
        cuda.enter()
        self.check(self.context.execute_async_v3(int(cuda.stream)), "its work")

    def is_capturable(self) -> bool:
        """Return False if TensorRT-RTX says that a capture of this work would fail.

        TensorRT itself cannot be asked.
        """
        cuda, ask = self.check.cuda, getattr(self.context, "is_stream_capturable", None)
        cuda.enter()
        return ask is None or bool(ask(int(cuda.stream)))


@dataclass(frozen=True)
class _Checks:
    """Raises what TensorRT refuses as an error with TensorRT's reason."""

    path: Path
    cuda: Cuda
    logger: Any

    def __call__(self, done: bool, what: str) -> None:
        """Raise DeviceError unless it was done."""
        if done:
            return
        reason = self.logger.errors[-1] if self.logger.errors else "no reason given"
        room = ""
        with suppress(DeviceError):  # after some errors the driver does not answer any more
            free, total = self.cuda.memory()
            room = f" ({free / 1e6:.0f} of {total / 1e6:.0f} MB free)"
        raise DeviceError(
            f"{self.path}: cuda:{self.cuda.ordinal} ({self.cuda.name}) refuses {what}: "
            f"{reason}{room}"
        )


def _cache_file(trt: Any, path: Path, cuda: Cuda) -> Path:
    """Return the path of the runtime cache, beside the bundle, which itself does not change."""
    folder = path.parent.with_name(f"{path.parent.name}{COMPILED}")
    return folder / f"{path.stem}-{cuda.name.replace(' ', '-')}-{trt.__version__}.bin"


def _runtime_cache(trt: Any, engine: Any, path: Path) -> Any:
    """Return what was compiled for this GPU before; None for TensorRT, which compiles nothing."""
    if not hasattr(trt, "IRuntimeCache"):
        return None
    cache = engine.create_runtime_config().create_runtime_cache()
    with suppress(OSError):  # there is no such file yet, or no place for it
        cache.deserialize(path.read_bytes())  # it ignores the cache of another driver
    return cache


def _keep(cache: Any, path: Path, cuda: Cuda) -> None:
    """Write what was compiled, when the engine is closed, if there is more than before.

    If it cannot be written, it is compiled again each time.
    """
    with suppress(DeviceError, OSError):
        cuda.enter()
        content = bytes(cache.serialize() or b"")
        if len(content) > (path.stat().st_size if path.exists() else 0):
            path.parent.mkdir(exist_ok=True)
            with atomic_write(path) as part:
                part.write_bytes(content)
