"""The engines and tables of a bundle, each opened when first needed and kept."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

from janus_edge.runtime.backends import Engine, Shared, backend_of, load_engine
from janus_edge.runtime.backends.cubins import Gpu
from janus_edge.runtime.backends.cuda_decoder import CACHE_TYPE
from janus_edge.runtime.bundle import Bundle
from janus_edge.runtime.cached_decoder import CachedDecoder
from janus_edge.runtime.decoding import Beside
from janus_edge.runtime.devices import Device
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.kept import Kept
from janus_edge.runtime.manifest import PREFILL
from janus_edge.runtime.resources import free_memory, num_processors
from janus_edge.runtime.tables import Table
from janus_edge.runtime.timed_engine import TimedEngine, check_finite

if TYPE_CHECKING:
    from janus_edge.runtime.backends.on_device import DeviceEngine
    from janus_edge.runtime.passes import Known

Made = TypeVar("Made")

MOST_THREADS = 1024  # per engine
CONTEXT_MB = 256  # unless a program says otherwise


class Engines:
    """A bundle's engines by component name. Not for several threads.

    Attributes:
        bundle: The bundle.
        device: Where components run.
        component_ms: Time spent in each component, all calls together, ms.
        kept: Contexts and images' vectors of earlier requests.
        known_passes: What requests told about passes, by note.
    """

    def __init__(
        self,
        bundle: Bundle,
        num_threads: int,
        device: Device | None = None,
        context_mb: int = CONTEXT_MB,
    ) -> None:
        """Prepare the engines; none is opened yet.

        Args:
            bundle: The bundle.
            num_threads: Threads of each engine; 0 lets the backend choose.
            device: Where components run, by default the CPU.
            context_mb: Room for what is kept for later requests, MB; 0 keeps nothing.

        Raises:
            OptionError: The system does not have so many threads.
        """
        if not 0 <= num_threads <= MOST_THREADS:  # ONNX Runtime would try, and be killed
            raise OptionError(f"num_threads is {num_threads}; give 0 to {MOST_THREADS}")
        self.bundle, self.device = bundle, device or Device()
        self._shared = Shared(num_threads, self.device)
        if any(map(self._runs_on_cpu_kernels, bundle.manifest.components)):
            _ = self._shared.on_cpu.pool  # refuses now what the system has no threads for
        self.kept = Kept(context_mb * 10**6)
        self.known_passes: dict[Path, Known] = {}
        self._engines: dict[str, Engine] = {}
        self._tables: dict[str, Table] = {}
        self._kept: dict[Hashable, object] = {}
        self.component_ms: dict[str, float] = {}

    def __getitem__(self, name: str) -> Engine:
        """Return a component's engine. Raises BundleError if it cannot be opened."""
        if name not in self._engines:
            self._engines[name] = TimedEngine(self._load(name), name, self.component_ms)
        return self._engines[name]

    def _load(self, name: str) -> Engine:
        with self.bundle.unchanged(name):
            return load_engine(self.bundle, name, self._shared)

    def _runs_on_cpu_kernels(self, name: str) -> bool:
        return backend_of(self.bundle.manifest, name, self.device) == "cpu_kernels"

    @property
    def uses_cpu_kernels(self) -> bool:
        """True if the CPU kernels run the decoder."""
        return self._runs_on_cpu_kernels("decoder")

    @property
    def uses_cuda_kernels(self) -> bool:
        """True if our GPU kernels run the decoder."""
        return backend_of(self.bundle.manifest, "decoder", self.device) == "cuda_kernels"

    @property
    def decoder_is_for_cpu(self) -> bool:
        """True if the decoder's graph has operators that ONNX Runtime has on a CPU alone."""
        is_graph = not self.uses_cuda_kernels
        return is_graph and self.bundle.manifest.components["decoder"].target == "cpu"

    @property
    def cache_type(self) -> str:
        """Dtype of keys and values."""
        return CACHE_TYPE if self.uses_cuda_kernels else self.bundle.manifest.cache_type

    @property
    def num_threads(self) -> int:
        """Threads of the CPU kernels."""
        return self._shared.num_threads or num_processors()

    def use(self, num_threads: int) -> None:
        """Let the CPU kernels use at most so many threads from now on."""
        if self._shared.device.kind == "cpu" and "pool" in self._shared.__dict__:
            self._shared.pool.use(num_threads)

    @cached_property
    def beside(self) -> Beside | None:
        """Return what decodes images beside passes, with half of the threads.

        None where all threads are needed for passes (one thread, a GPU), and where memory is short.
        """
        threads = self.num_threads // 2
        has_room = self.bundle.num_bytes("image_decoder") < free_memory()
        if self.device.kind != "cpu" or threads < 1 or not has_room:
            return None
        with suppress(OptionError):  # the system has no more threads
            engines = Engines(self.bundle, threads, self.device, context_mb=0)
            engines.component_ms = self.component_ms
            return Beside(engines)
        return None

    @property
    def loops_on_gpu(self) -> bool:
        """True if the loops run on the GPU: all that a step takes is there."""
        has_kernels = self.device.kind == "cuda" and bool(self.bundle.manifest.kernels)
        # Beside our decoder a flow's encoder and decoder run on the CPU.
        return has_kernels and not (
            "flow_encoder" in self.bundle.manifest.components and self.uses_cuda_kernels
        )

    def add_ms(self, name: str, spent_ms: float) -> None:
        """Add time spent outside of the components, ms, under a name of its own."""
        self.component_ms[name] = self.component_ms.get(name, 0.0) + spent_ms

    def gpu(self) -> Gpu:
        """Return what the loops on the GPU launch kernels with. Raises DeviceError."""
        this = weakref.ref(self)  # arrays keep their GPU alive; it must not keep them alive
        self._shared.cuda.make_room = lambda: _forget(this())
        return self._shared.gpu(self.bundle)

    @contextmanager
    def reused(self, key: Hashable, make: Callable[[], Made]) -> Iterator[Made]:
        """Lend what a loop on the GPU has set up.

        Only the latest is kept, until another is needed or memory is short. After an error it is
        not kept.

        Args:
            key: Names the set-up.
            make: Makes it, if none is kept for this key.

        Yields:
            The set-up.
        """
        made = cast("Made | None", self._kept.pop(key, None))
        self._kept.clear()  # there may be memory for only one
        made, is_sound = made or make(), True
        try:
            yield made
        except Exception:
            is_sound = False
            raise
        finally:
            if is_sound:
                self._kept[key] = made

    def device_engine(self, name: str) -> DeviceEngine:
        """Return a component's engine on the GPU, for loops that enqueue it."""
        engine = cast(TimedEngine, self[name]).engine
        return cast("DeviceEngine", engine)

    def open(self, *names: str) -> None:
        """Open components before they are used.

        On a CPU they open side by side, as opening takes one processor each.

        Raises:
            BundleError: A component cannot be opened.
        """
        closed = dict.fromkeys(name for name in names if name not in self._engines)
        if self.device.kind != "cpu":
            for name in closed:  # in one thread: work on a GPU has an order
                self[name]
        elif closed:
            with ThreadPoolExecutor(num_processors()) as pool:
                list(pool.map(self.__getitem__, closed))

    def open_decoder(
        self, rows: int, max_length: int, *, steps: bool = True, prefill: bool = True
    ) -> CachedDecoder:
        """Return the decoder with KV caches of its own.

        Args:
            rows: Rows of the caches.
            max_length: Positions that the caches need; an engine may have a fixed number.
            steps: See ``decoder_names``.
            prefill: See ``decoder_names``.

        Raises:
            BundleError: The decoder cannot be opened.
        """
        names, manifest = self.decoder_names(steps=steps, prefill=prefill), self.bundle.manifest
        self.open(*names)
        step, prefill_engine = (self[name] for name in names)
        slots = manifest.cache_slots or max_length
        # GroupQueryAttention takes several positions on a filled cache for one row only.
        row_by_row = self.decoder_is_for_cpu and not self.uses_cpu_kernels
        kinds = self.cache_type, prefill_engine
        return CachedDecoder(step, manifest.sizes, rows, slots, *kinds, row_by_row=row_by_row)

    def decoder_names(self, *, steps: bool = True, prefill: bool = True) -> tuple[str, str]:
        """Return the component for decode steps and the component for prefill.

        Prefill uses a copy of the decoder if the bundle has one, memory has room for it, and our
        kernels do not run the decoder: they are as fast without the copy. A component that is
        not needed stays closed.

        Args:
            steps: True if there will be decode steps.
            prefill: True if there are so many positions that it is worth opening the copy.
        """
        prefill_name = "decoder"
        ours = self.uses_cpu_kernels or self.uses_cuda_kernels
        if prefill and PREFILL in self.bundle.manifest.components and not ours:
            is_open = PREFILL in self._engines
            if is_open or self.bundle.num_bytes(PREFILL) < free_memory():
                prefill_name = PREFILL
        return "decoder" if steps else prefill_name, prefill_name

    def head(self, name: str) -> Callable[[np.ndarray], np.ndarray]:
        """Return a head: hidden states (R, D) to logits (R, V), bound once for each R.

        The logits are valid until the next call with as many rows.

        Args:
            name: The head's component.

        Raises:
            BundleError: The head cannot be opened.
        """
        manifest, engine = self.bundle.manifest, self[name]
        outputs = int(manifest.components[name].outputs[0].shape[-1])

        @cache
        def bound(rows: int) -> tuple[np.ndarray, np.ndarray, Callable[[], None]]:
            hidden_RD = np.zeros((rows, manifest.sizes.hidden_size), np.float32)
            logits_RV = np.zeros((rows, outputs), np.float32)
            call = engine.bind({"hidden": hidden_RD}, {"logits": logits_RV})
            return hidden_RD, logits_RV, call

        most = manifest.components[name].profile["R"][2]
        is_built = manifest.components[name].backend == "tensorrt"  # for so many rows at most

        def head(given_RD: np.ndarray) -> np.ndarray:
            if is_built and len(given_RD) > most:
                starts = range(0, len(given_RD), most)
                return np.concatenate([head(given_RD[i : i + most]).copy() for i in starts])
            hidden_RD, logits_RV, call = bound(len(given_RD))
            hidden_RD[:] = given_RD
            call()
            check_finite(name, (logits_RV,))
            return logits_RV

        return head

    def table(self, name: str) -> Table:
        """Return a look-up table.

        Raises:
            BundleError: Its file has changed since the bundle was opened.
        """
        if name not in self._tables:
            with self.bundle.unchanged(name):
                self._tables[name] = self.bundle.tables[name]
        return self._tables[name]


def _forget(engines: Engines | None) -> None:
    """Free what is only kept for reuse."""
    if engines is not None:
        engines._kept.clear()
