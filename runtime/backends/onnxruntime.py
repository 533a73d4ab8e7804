"""The backend ``onnxruntime``: graphs on the CPU, or by another provider of ONNX Runtime."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from janus_edge.runtime.backends import Arrays, Buffer, Buffers, Shared
from janus_edge.runtime.backends.graph_ends import check_ends
from janus_edge.runtime.bundle import Bundle
from janus_edge.runtime.devices import PROVIDERS, Device
from janus_edge.runtime.errors import BundleError, DeviceError, DeviceWarning
from janus_edge.runtime.tiles import initializers

ort.disable_telemetry_events()  # a program may import it before janus_edge sets the variable

# An engine has threads of its own, which spin while they wait for its next matmul. After its last
# matmul the spinning keeps a processor from the next engine. Decoder and head in turn took twice as
# long with the library's default (docs/benchmark.md). "" is that default.
SPIN_US = "100"
# Where providers have their memory. For providers not named here the library moves the arrays.
_MEMORY = {"cuda": "cuda", "tensorrt": "cuda", "tensorrt-rtx": "cuda"}
_NUMBERED = ("cuda", "tensorrt", "tensorrt-rtx", "directml", "migraphx")  # take a device_id
_OPTIONS = {"cuda": {"use_tf32": "0"}}  # full float32, as on every other device
_SHOWN = 200  # characters of a reason, which can be pages long


def load(bundle: Bundle, name: str, shared: Shared) -> OrtEngine:
    """Open a component's graph, as ``load_graph`` does.

    Args:
        bundle: The bundle.
        name: The component.
        shared: What the session's engines share.

    Raises:
        BundleError: As ``load_graph``, or inputs or outputs differ from the manifest.
        DeviceError: As ``load_graph``.
    """
    path, component = bundle.path(name), bundle.manifest.components[name]
    weights = {}
    if component.data is not None:
        weights = initializers(component.tensors, bundle.folder / component.data.file)
    engine = load_graph(path, shared.num_threads, component.upcast, shared.device, weights)
    check_ends(path, component, engine.session)
    return engine


def load_graph(
    path: Path,
    num_threads: int = 0,
    upcast: str = "load",
    device: Device | None = None,
    weights: dict[str, np.ndarray] | None = None,
) -> OrtEngine:
    """Open a graph.

    Warns (DeviceWarning) of nodes that are left to the CPU.

    Args:
        path: The graph.
        num_threads: 0 lets ONNX Runtime choose.
        upcast: When fp16 weights become float32: "load" or "use".
        device: Where it runs, by default the CPU.
        weights: Initializers by name that take the place of the graph's.

    Raises:
        BundleError: ONNX Runtime refuses the graph.
        DeviceError: ONNX Runtime has no such provider, or the provider does not start.
        MemoryError: There is not enough memory.
    """
    device = device or Device()
    options = _session_options(num_threads, upcast, device)
    values = {
        name: ort.OrtValue.ortvalue_from_numpy(each) for name, each in (weights or {}).items()
    }
    options.add_external_initializers(list(values), list(values.values()))
    try:
        session = ort.InferenceSession(
            path, options, providers=_providers(device), enable_fallback=0
        )
    except Exception as error:  # the library's exceptions share no narrower base
        reason = _reason(error)
        if _is_shortage(reason):
            raise MemoryError(f"{path}: {reason}") from None
        if device.kind != "cpu":
            raise DeviceError(
                f"{path}: {PROVIDERS[device.kind]} of ONNX Runtime {ort.__version__} cannot run "
                f"it: {reason}; another version may, --device cpu does"
            ) from None
        raise BundleError(
            f"{path}: ONNX Runtime {ort.__version__} cannot open it: {reason}; export it again"
        ) from None
    if session.get_providers()[0] != PROVIDERS[device.kind]:
        raise DeviceError(
            f"{path}: {PROVIDERS[device.kind]} does not start; `janus-edge doctor` shows what is "
            "here, --device cpu does without"
        )
    if device.kind != "cpu":
        _report(path, device, left_to_cpu(session))
    return OrtEngine(session, device, path, values)


def _session_options(num_threads: int, upcast: str, device: Device) -> ort.SessionOptions:
    """Return the options of a session; for the arguments see ``load_graph``."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.enable_mem_pattern = False
    if SPIN_US:
        options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_US)
    if device.kind == "cpu":
        # Matmuls of 4-bit weights in standard operators then take 8-bit inputs, as MatMulNBits.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "4")
    else:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if upcast == "use":  # optimizing would fold the casts; any other order would upcast all at once
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.log_severity_level = 3  # errors reach the user as exceptions, not as log lines
    return options


def _reason(error: Exception) -> str:
    """Return the end of a message's first line: what is wrong comes after paths and functions."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line if len(line) <= _SHOWN else f"...{line[-_SHOWN:]}"


def _is_shortage(reason: str) -> bool:
    return "allocate" in reason or "bad_alloc" in reason


def _providers(device: Device) -> list[Any]:
    """Return the device's provider, and the CPU's for operators that the former does not have."""
    name = PROVIDERS[device.kind]
    if name == PROVIDERS["cpu"]:
        return [name]
    options = {"device_id": str(device.ordinal)} if device.kind in _NUMBERED else {}
    return [(name, options | _OPTIONS.get(device.kind, {})), PROVIDERS["cpu"]]


def left_to_cpu(session: Any) -> Counter[str]:
    """Return how many nodes of each operator the CPU computes."""
    return Counter(
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == PROVIDERS["cpu"]
        for node in part.get_nodes()
    )


def _report(path: Path, device: Device, left: Counter[str]) -> None:
    if left:
        shown = ", ".join(f"{count} {name}" for name, count in left.most_common())
        warnings.warn(
            f"{path.name}: {device} leaves {left.total()} nodes to the CPU: {shown}",
            DeviceWarning,
            stacklevel=2,
        )


class OrtEngine:
    """A graph that ONNX Runtime runs; see ``Engine``."""

    def __init__(
        self, session: ort.InferenceSession, device: Device, path: Path, weights: object = None
    ) -> None:
        """Keep a session.

        Args:
            session: The graph's ONNX Runtime session.
            device: Where it runs.
            path: The graph, for errors.
            weights: What must live as long as the session.
        """
        self._weights = weights
        self.session, self._device, self._path = session, device, path
        self._place = _MEMORY.get(device.kind, "cpu"), device.ordinal

    def run(self, inputs: Arrays) -> list[np.ndarray]:
        """Return all outputs, in new arrays.

        Raises:
            BundleError: ONNX Runtime cannot compute them.
            DeviceError: A device cannot compute them.
            MemoryError: There is not enough memory.
        """
        try:
            return list(self.session.run(None, inputs))
        except Exception as error:  # the library's exceptions share no narrower base
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> Exception:
        reason = _reason(error)
        if _is_shortage(reason):
            return MemoryError(f"{self._path}: {reason}")
        if self._device.kind != "cpu":
            return DeviceError(f"{self._path}: {self._device}: {reason}; --device cpu does without")
        return BundleError(
            f"{self._path}: ONNX Runtime {ort.__version__}: {reason}; export the bundle again"
        )

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Return a cleared array, or cleared memory on the device."""
        cleared = np.zeros(shape, dtype)
        return cleared if self._is_host else ort.OrtValue.ortvalue_from_numpy(cleared, *self._place)

    @property
    def _is_host(self) -> bool:
        return self._place[0] == "cpu"

    def bind(
        self, inputs: Buffers, outputs: Buffers, *, often: bool = True, last_only: bool = False
    ) -> Callable[[], None]:
        """Return a call on fixed arrays. On a CPU an OrtValue shares its numpy array's memory."""
        binding, session, failed = self.session.io_binding(), self.session, self._failed
        values: dict[int, Any] = {}
        for array in (*inputs.values(), *outputs.values()):
            if id(array) not in values:
                values[id(array)] = self._value(array)
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, values[id(array)])
        for name, array in outputs.items():
            binding.bind_ortvalue_output(name, values[id(array)])
        sent, fetched = (
            [(n, values[id(a)], a) for n, a in named.items() if _is_array(a) and not self._is_host]
            for named in (inputs, outputs)
        )
        kept = (inputs, outputs)  # the binding holds bare pointers

        def call(_kept: tuple[Buffers, Buffers] = kept) -> None:
            for name, value, array in sent:
                value.update_inplace(np.ascontiguousarray(array))
                # Bind again: an input that an operator needs on the host, such as Attention's
                # lengths, is copied there when it is bound, and would keep its old values.
                binding.bind_ortvalue_input(name, value)
            try:
                session.run_with_iobinding(binding)
            except Exception as error:
                raise failed(error) from None
            for _, value, array in fetched:
                array[...] = value.numpy()

        return call

    def _value(self, array: Buffer) -> Any:
        if not _is_array(array):
            return array
        place = () if self._is_host else self._place
        return ort.OrtValue.ortvalue_from_numpy(array, *place)


def _is_array(buffer: Buffer) -> bool:
    return isinstance(buffer, np.ndarray)
