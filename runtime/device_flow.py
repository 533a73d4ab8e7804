"""The flow's loop on a GPU: every step is one captured launch, the latent never leaves the device.

Guided steps run the conditional and the unconditional row together; the others run only the
conditional row.

Shapes: see ``runtime/draw_flow.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from janus_edge.runtime.backends.cubins import Gpu
from janus_edge.runtime.backends.on_device import DeviceEngine
from janus_edge.runtime.cuda import Cuda, DeviceArray, Event
from janus_edge.runtime.device_prefill import Prefill, Send
from janus_edge.runtime.flow import (
    MAX_STEPS,
    NUM_FACTORS,
    FlowSettings,
    Step,
    factors,
    timestep_schedule,
)
from janus_edge.runtime.kv_cache import KVCache
from janus_edge.runtime.sizes import FlowSizes
from janus_edge.runtime.timing import DeviceClock


@dataclass(frozen=True)
class FlowEngines:
    """The engines of a step, in the order in which they run.

    Attributes:
        encoder: The flow encoder.
        decoder: The language model's decoder.
        velocity: The flow decoder.
        skip_shape: Shape of the skip connection from encoder to velocity, for one image.
    """

    encoder: DeviceEngine
    decoder: DeviceEngine
    velocity: DeviceEngine
    skip_shape: tuple[int, ...]


@dataclass(frozen=True)
class _State:
    """What a step reads and writes. Rows: conditional, unconditional."""

    z: DeviceArray  # (1, Z, H, W)
    t: DeviceArray  # (1,)
    tokens: DeviceArray  # (1, N, D), the latent's
    embeds: DeviceArray  # (2, T, D): t's vector, then the tokens
    skip: DeviceArray  # (2, C, h, w)
    time: DeviceArray  # (2, D)
    positions: DeviceArray  # (2, T)
    lengths: DeviceArray  # (2,)
    hidden: DeviceArray  # (2, T, D)
    drawn: DeviceArray  # (2, N, D): hidden without t's
    velocities: DeviceArray  # (2, Z, H, W)
    before: DeviceArray  # (1, Z, H, W): velocity of the step before
    denoised: DeviceArray  # (1, Z, H, W)
    factors: DeviceArray  # (MAX_STEPS, NUM_FACTORS), of which the first S are a request's
    counter: DeviceArray  # (1,)


class DeviceFlow:
    """The flow's loop on a GPU.

    Its memory, bindings and captured steps are made once. A prompt is computed once for all its
    images.
    """

    def __init__(self, gpu: Gpu, engines: FlowEngines, sizes: FlowSizes, cache_type: str) -> None:
        """Make the loop's memory.

        Args:
            gpu: The GPU with the bundle's kernels.
            engines: The engines of a step.
            sizes: The sizes of the bundle.
            cache_type: Dtype of the KV caches, as the manifest names it.

        Raises:
            DeviceError: The GPU has no room.
            BundleError: The kernel was compiled for another latent.
        """
        gpu.kernels.require("flow_update", "SIZE", math.prod(sizes.latent_shape))
        self._gpu, self._engines = gpu, engines
        self._state = _state(gpu.cuda, sizes, engines.skip_shape)
        self._caches = KVCache.zeros(engines.decoder, sizes, 2, sizes.max_length, cache_type)
        self._prefill = Prefill(gpu.cuda, engines.decoder, self._caches)
        self._warm: dict[int, tuple[Send, Callable[[], bool]]] = {}  # by rows; has run once
        self._captured: dict[int, Send] = {}

    def begin(self, shown_TD: np.ndarray, settings: FlowSettings) -> None:
        """Compute a prompt.

        Args:
            shown_TD: Embeddings of the prompt without its last token, in whose place t's vector
                stands.
            settings: How latents are drawn.

        Raises:
            KeyError: The solver is not in ``runtime.flow.MULTISTEP_WEIGHTS``.
        """
        cuda, state, length = self._gpu.cuda, self._state, len(shown_TD)
        self._settings, table = settings, np.zeros(state.factors.shape, np.float32)
        table[: settings.num_steps] = factors(settings)
        follows = state.embeds.shape[1]
        with cuda.settled():
            cuda.upload(state.factors, table)
            cuda.upload(state.positions, np.tile(length + np.arange(follows), (2, 1)))
            cuda.upload(state.lengths, np.array([length, 1]) + follows)
            # the unconditional row has seen only the first token
            self._prefill(np.stack([shown_TD] * 2), np.array([length, 1]))

    def draw(self, z0_1ZHW: np.ndarray, previews: bool, clock: DeviceClock) -> Iterator[Step]:
        """Yield the end of each step; its z is valid only at the last step.

        Args:
            z0_1ZHW: Noise.
            previews: Keep ``denoised`` up to date in every step.
            clock: Takes the time that the host needs to send steps.
        """
        cuda, state, settings = self._gpu.cuda, self._state, self._settings
        timesteps = timestep_schedule(settings.num_steps, settings.shift).tolist()
        z, denoised = (np.array(z0_1ZHW, np.float32) for _ in range(2))
        waiting: list[tuple[int, Event]] = []
        with cuda.settled():
            cuda.upload(state.z, z0_1ZHW)
            for array in (state.t, state.counter):
                cuda.upload(array, np.zeros(array.shape, array.dtype))
            for done in range(1, settings.num_steps + 1):
                send = self._sent(2 if settings.guided(timesteps[done - 1]) else 1)
                with clock.sending():
                    send()
                if previews:
                    cuda.download(denoised, state.denoised)
                if done == settings.num_steps:
                    cuda.download(z, state.z)
                waiting.append((done, Event(cuda)))
                # send one step ahead, unless each step is previewed
                while len(waiting) > (0 if previews or done == settings.num_steps else 1):
                    at, event = waiting.pop(0)
                    event.wait()
                    yield Step(done=at, t=timesteps[at], z=z, denoised=denoised)

    def _sent(self, rows: int) -> Send:
        """Return a step to send: captured, but for the first, when engines may set things up."""
        if rows in self._captured:
            return self._captured[rows]
        if rows in self._warm:
            self._captured[rows] = self._gpu.cuda.capture(*self._warm[rows])
            return self._captured[rows]
        self._warm[rows] = _step(self._gpu, self._engines, self._state, self._caches, rows)
        return self._warm[rows][0]


def _state(cuda: Cuda, sizes: FlowSizes, skip_shape: tuple[int, ...]) -> _State:
    """Return buffers on the device, for both rows."""
    width, tokens = sizes.hidden_size, sizes.num_latent_tokens
    follows, latent, new = tokens + 1, (1, *sizes.latent_shape), cuda.array
    return _State(
        z=new(latent, "float32"),
        t=new((1,), "float32"),
        tokens=new((1, tokens, width), "float32"),
        embeds=new((2, follows, width), "float32"),
        skip=new((2, *skip_shape), "float32"),
        time=new((2, width), "float32"),
        positions=new((2, follows), "int64"),
        lengths=new((2,), "int64"),
        hidden=new((2, follows, width), "float32"),
        drawn=new((2, tokens, width), "float32"),
        velocities=new((2, *sizes.latent_shape), "float32"),
        before=new(latent, "float32"),
        denoised=new(latent, "float32"),
        factors=new((MAX_STEPS, NUM_FACTORS), "float32"),
        counter=new((1,), "int64"),
    )


def _step(
    gpu: Gpu, engines: FlowEngines, state: _State, caches: KVCache, rows: int
) -> tuple[Send, Callable[[], bool]]:
    """Return a step, and a function that tells whether its engines let it be captured."""
    cuda, (_, follows, width) = gpu.cuda, state.embeds.shape

    def first(array: DeviceArray, count: int = rows) -> DeviceArray:
        return array.view((count, *array.shape[1:]))

    encode = engines.encoder.prepare_enqueue(
        {"latent": state.z, "t": state.t},
        {"tokens": state.tokens, "time": first(state.time, 1), "skip": first(state.skip, 1)},
    )
    given, kept = {n: first(getattr(state, n)) for n in _GIVEN}, caches.rows(rows)
    decode = engines.decoder.prepare_enqueue(
        {**given, **kept.past}, {"hidden": first(state.hidden), **kept.present}
    )
    ends = {"hidden": first(state.drawn), "skip": first(state.skip), "time": first(state.time)}
    velocity = engines.velocity.prepare_enqueue(ends, {"velocity": first(state.velocities)})
    latents = (state.z, state.velocities, state.before, state.denoised)

    def send() -> None:
        encode()
        for row in range(rows):  # both rows see the same latent
            for array in (state.time, state.skip):
                if row > 0:
                    _copy(cuda, _row(array, row), array)
            _copy(cuda, state.embeds.view((width,), row * follows * width), state.time)
            _copy(cuda, _row(state.embeds, row, 1), state.tokens)
        decode()
        for row in range(rows):
            _copy(cuda, _row(state.drawn, row), _row(state.hidden, row, 1))
        velocity()
        gpu.kernels.launch("flow_update", 1, *latents, state.factors, state.counter, state.t, 1)

    return send, lambda: all(part.is_capturable() for part in (encode, decode, velocity))


_GIVEN = ("embeds", "positions", "lengths")


def _row(array: DeviceArray, row: int, start: int = 0) -> DeviceArray:
    """Return one row of an array, or its positions from ``start`` on."""
    _, *shape = array.shape
    size = math.prod(shape)
    step = size // shape[0] * start
    return array.view((shape[0] - start, *shape[1:]), row * size + step)


def _copy(cuda: Cuda, target: DeviceArray, source: DeviceArray) -> None:
    """Copy as many bytes as the target holds."""
    cuda.copy(target.address, source.address, target.nbytes)
