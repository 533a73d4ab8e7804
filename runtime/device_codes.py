"""The decode loop of a code model on a GPU: the host starts steps and reads codes in batches.

Decoder, head, sampler and look-up are one captured launch per code. Positions, lengths and codes
stay on the device.

Shapes: see ``runtime/decode.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from janus_edge.runtime.backends.cubins import Gpu
from janus_edge.runtime.backends.on_device import DeviceEngine
from janus_edge.runtime.cuda import Cuda, DeviceArray, Event
from janus_edge.runtime.decode import Settings
from janus_edge.runtime.device_prefill import Prefill, Send
from janus_edge.runtime.kv_cache import KVCache
from janus_edge.runtime.sampling import STREAMS, is_greedy, unsound
from janus_edge.runtime.sizes import CodeSizes
from janus_edge.runtime.timing import DeviceClock


class DeviceCodes:
    """The decode loop for a number of rows and images.

    Its memory, bindings and captured step are made once and serve one image, or one batch, after
    the other.
    """

    def __init__(
        self,
        gpu: Gpu,
        decoder: DeviceEngine,
        image_head: DeviceEngine,
        sizes: CodeSizes,
        cache_type: str,
        slots: int,
        code_embed_VD: np.ndarray,
        rows: int,
        images: int,
    ) -> None:
        """Make the loop's memory and bindings.

        Args:
            gpu: The GPU with the bundle's kernels.
            decoder: The decoder's engine.
            image_head: The image head's engine.
            sizes: The sizes of the bundle.
            cache_type: Dtype of the KV caches, as the manifest names it.
            slots: Positions of the KV caches.
            code_embed_VD: Embeddings of the codes.
            rows: Two per image with guidance, else one.
            images: Images drawn at once.

        Raises:
            DeviceError: The GPU has no room.
            BundleError: The kernels were compiled for other sizes.
        """
        gpu.kernels.require("sample", "NUM_CODES", sizes.codebook_size)
        gpu.kernels.require("look_up", "WIDTH", sizes.hidden_size)
        self._cuda, self._grid, self._num = gpu.cuda, sizes.code_grid, sizes.num_codes
        caches = KVCache.zeros(decoder, sizes, rows, slots, cache_type)
        self._prefill = Prefill(gpu.cuda, decoder, caches)
        self._state = _State.of(gpu.cuda, sizes, code_embed_VD, rows, images)
        self._step = _step(gpu, decoder, image_head, caches, self._state)
        self._pages = [gpu.cuda.pinned(self._state.drawn.shape, "int64") for _ in range(2)]
        self._captured: Send | None = None

    def draw(
        self,
        prompt_RTD: np.ndarray,
        lengths_R: np.ndarray,
        seeds_B: np.ndarray,
        settings: Settings,
        clock: DeviceClock,
    ) -> Iterator[np.ndarray]:
        """Yield the codes (B,) of each position.

        After the first code, the codes of a row of the image come at once.

        Args:
            prompt_RTD: Embeddings of the rows' prompts; see ``runtime.decode``.
            lengths_R: The prompts' lengths without padding.
            seeds_B: One seed per image.
            settings: How codes are chosen. top_p is 1: the kernel has no other.
            clock: Takes the time of each step.
        """
        assert settings.top_p == 1.0
        cuda, num = self._cuda, self._num
        ends = sorted({0, 1, *range(self._grid, num, self._grid), num})
        waiting: list[tuple[np.ndarray, list[Event], int]] = []
        with cuda.settled():
            start = Event(cuda)
            self._begin(prompt_RTD, lengths_R, seeds_B, settings)
            sender = self._sends()
            for index, (first, stop) in enumerate(pairwise(ends)):
                events = []
                for _ in range(first, stop):
                    send = next(sender)
                    with clock.sending():
                        send()
                    events.append(Event(cuda))
                page = self._pages[index % 2]
                cuda.download(page, self._state.drawn)
                waiting.append((page, [*events, Event(cuda)], first))
                while len(waiting) > (0 if index == 0 else 1):  # keep the device busy meanwhile
                    yield from _read(start, *waiting.pop(0), clock)
            for each in waiting:
                yield from _read(start, *each, clock)

    def _begin(
        self,
        prompt_RTD: np.ndarray,
        lengths_R: np.ndarray,
        seeds_B: np.ndarray,
        settings: Settings,
    ) -> None:
        """Fill the caches with prompts, and the state with what the first step needs."""
        cuda, state = self._cuda, self._state
        cuda.upload(state.lengths, lengths_R)
        cuda.upload(state.seeds, np.asarray(seeds_B, np.uint64).view(np.int64))
        upload_settings(cuda, state.scales, state.top_ks, settings)
        cuda.upload(state.counters, np.zeros(state.counters.shape, np.int64))
        self._prefill.last(prompt_RTD, lengths_R, state.hidden)
        cuda.synchronize()  # the uploads' sources may be freed now

    def _sends(self) -> Iterator[Send]:
        """Yield what to send for each code.

        The first code needs no decoder. The second is a step that is not captured, as engines may
        set things up at their first run. All others are that step, captured.
        """
        decode, choose, is_capturable = self._step

        def both() -> None:
            decode()
            choose()

        yield choose
        if self._captured is None:
            yield both
            self._captured = self._cuda.capture(both, is_capturable)
        while True:
            yield self._captured


def upload_settings(
    cuda: Cuda, scales: DeviceArray, top_ks: DeviceArray, settings: Settings
) -> None:
    """Send what the sampler takes.

    Args:
        cuda: The GPU.
        scales: Receives guidance scale and temperature, (2,) float32.
        top_ks: Receives top-k, (1,) int32.
        settings: How codes are chosen.
    """
    scale = settings.guidance_scale if settings.guided else 1.0
    # Compared in float64: a temperature just below MIN_TEMPERATURE rounds to it in float32.
    temperature = 0.0 if is_greedy(settings.temperature) else settings.temperature
    cuda.upload(scales, np.array([scale, temperature], np.float32))
    cuda.upload(top_ks, np.array([min(settings.top_k, 2**31 - 1)], np.int32))


@dataclass(frozen=True)
class _State:
    """What a step reads and writes. Shapes: R rows, B images, N codes, V codebook, D width."""

    embeds: DeviceArray  # (R, 1, D)
    positions: DeviceArray  # (R, 1)
    lengths: DeviceArray  # (R,)
    hidden: DeviceArray  # (R, 1, D)
    logits: DeviceArray  # (R, V)
    codes: DeviceArray  # (B,)
    seeds: DeviceArray  # (B,)
    scales: DeviceArray  # (2,): guidance scale, temperature
    top_ks: DeviceArray  # (1,)
    drawn: DeviceArray  # (B, N)
    counters: DeviceArray  # (B,): codes drawn so far
    table: DeviceArray  # (V, D)

    @classmethod
    def of(
        cls, cuda: Cuda, sizes: CodeSizes, table_VD: np.ndarray, rows: int, images: int
    ) -> _State:
        """Return buffers on the device, with the table of code embeddings."""
        width, new = sizes.hidden_size, cuda.array
        return cls(
            embeds=new((rows, 1, width), "float32"),
            positions=new((rows, 1), "int64"),
            lengths=new((rows,), "int64"),
            hidden=new((rows, 1, width), "float32"),
            logits=new((rows, sizes.codebook_size), "float32"),
            codes=new((images,), "int64"),
            seeds=new((images,), "int64"),
            scales=new((2,), "float32"),
            top_ks=new((1,), "int32"),
            drawn=cuda.zeros((images, sizes.num_codes), "int64"),
            counters=new((images,), "int64"),
            table=cuda.uploaded(table_VD, "float16"),
        )


def _step(
    gpu: Gpu, decoder: DeviceEngine, image_head: DeviceEngine, caches: KVCache, state: _State
) -> tuple[Send, Send, Callable[[], bool]]:
    """Return a step in two parts: the decoder, and the rest (head, sampler, look-up).

    The third value tells whether the engines let both be captured.
    """
    inputs = {name: getattr(state, name) for name in ("embeds", "positions", "lengths")}
    outputs = {"hidden": state.hidden, **caches.present}
    decode = decoder.prepare_enqueue({**inputs, **caches.past}, outputs)
    rows, _, width = state.hidden.shape
    hidden = state.hidden.view((rows, width))
    head = image_head.prepare_enqueue({"hidden": hidden}, {"logits": state.logits})
    images, num = state.drawn.shape

    def choose() -> None:
        head()
        drawing = (state.logits, state.codes, state.seeds, state.counters)
        numbers = (state.scales, state.top_ks, STREAMS["image"], images)
        gpu.kernels.launch("sample", images, *drawing, *numbers)
        rest = (state.drawn, state.counters, state.positions, state.lengths, images, rows, num)
        gpu.kernels.launch("look_up", images, state.codes, state.table, state.embeds, *rest)

    return decode, choose, lambda: decode.is_capturable() and head.is_capturable()


def _read(
    start: Event, page_BN: np.ndarray, events: list[Event], first: int, clock: DeviceClock
) -> Iterator[np.ndarray]:
    """Wait for a batch of codes and yield it position by position."""
    *each, there = events
    there.wait()
    if (page_BN[:, first : first + len(each)] < 0).any():  # the kernel refuses the logits with -1
        raise unsound("logits")
    for position, event in enumerate(each, first):
        clock.ends_ms.append(event.ms_since(start))
        yield page_BN[:, position].copy()
