"""Exact parallel drawing on a GPU: passes over several positions, without the host.

Decoder, head, sampler and ``take`` are one captured launch per pass. Drafts, positions and the
number of codes that are drawn stay on the device (docs/decoding.md). The host sends no more passes
than an image needs at least, and reads how far they came.

Shapes: see ``runtime/decode.py``; T is the width of a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from janus_edge.runtime.backends.cubins import Gpu
from janus_edge.runtime.backends.on_device import DeviceEngine
from janus_edge.runtime.cuda import Cuda, DeviceArray, Event
from janus_edge.runtime.decode import Settings
from janus_edge.runtime.device_codes import upload_settings
from janus_edge.runtime.device_prefill import Prefill, Send
from janus_edge.runtime.events import Pass
from janus_edge.runtime.kv_cache import KVCache
from janus_edge.runtime.sampling import STREAMS, unsound
from janus_edge.runtime.sizes import CodeSizes
from janus_edge.runtime.timing import DeviceClock

_AT_ONCE = 8  # passes that are sent before the host reads what they drew


class DevicePasses:
    """The decode loop for a number of rows, images and positions of a pass."""

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
        width: int,
    ) -> None:
        """Make the loop's memory and bindings; see ``DeviceCodes``.

        Args:
            gpu: The GPU with the bundle's kernels.
            decoder: The decoder's engine.
            image_head: The image head's engine.
            sizes: The sizes of the bundle.
            cache_type: Dtype of the KV caches, as the manifest names it.
            slots: Positions of the KV caches: those of prompt and codes, and ``width`` - 1 more.
            code_embed_VD: Embeddings of the codes.
            rows: Two per image with guidance, else one.
            images: Images drawn at once.
            width: Positions that a pass computes.

        Raises:
            DeviceError: The GPU has no room.
            BundleError: The kernels were compiled for other sizes.
        """
        gpu.kernels.require("sample", "NUM_CODES", sizes.codebook_size)
        gpu.kernels.require("take", "WIDTH", sizes.hidden_size)
        assert width <= gpu.kernels.constant("take", "MOST")
        self._cuda, self._num, self._width = gpu.cuda, sizes.num_codes, width
        caches = KVCache.zeros(decoder, sizes, rows, slots, cache_type)
        self._prefill = Prefill(gpu.cuda, decoder, caches)
        self._state = _State.of(gpu.cuda, sizes, code_embed_VD, rows, images, width)
        self._first, self._pass, self._is_capturable = _launches(
            gpu, decoder, image_head, caches, self._state
        )
        arrays = self._state.drawn, self._state.ends
        self._pages = [[gpu.cuda.pinned(a.shape, "int64") for a in arrays] for _ in range(2)]
        self._captured: Send | None = None

    def draw(
        self,
        prompt_RTD: np.ndarray,
        lengths_R: np.ndarray,
        seeds_B: np.ndarray,
        settings: Settings,
        clock: DeviceClock,
    ) -> Iterator[np.ndarray]:
        """Yield the codes (B,) of each position, as soon as all images have it.

        Args:
            prompt_RTD: Embeddings of the rows' prompts; see ``runtime.decode``.
            lengths_R: The prompts' lengths without padding.
            seeds_B: One seed per image.
            settings: How codes are chosen. top_p is 1: the kernel has no other.
            clock: Takes the time of each code and pass.
        """
        assert settings.top_p == 1.0
        with self._cuda.settled():
            found = _Found(self._num, self._width, clock, [Event(self._cuda)])
            self._begin(prompt_RTD, lengths_R, seeds_B, settings)
            sender, pages = self._sends(), cycle(self._pages)
            yield from found.read(self._sent(sender, 1, next(pages), clock))
            waiting: list[_Batch] = []
            while not found.is_complete:
                if more := found.needed(sum(len(each.events) for each in waiting)):
                    waiting.append(self._sent(sender, more, next(pages), clock))
                if len(waiting) == 2 or not more:  # keep the device busy meanwhile
                    yield from found.read(waiting.pop(0))

    def _begin(
        self,
        prompt_RTD: np.ndarray,
        lengths_R: np.ndarray,
        seeds_B: np.ndarray,
        settings: Settings,
    ) -> None:
        """Fill the caches with prompts, and the state with what the first pass needs."""
        cuda, state = self._cuda, self._state
        seeds = np.asarray(seeds_B, np.uint64).view(np.int64)
        cuda.upload(state.prompts, lengths_R)
        cuda.upload(state.first_seeds, seeds)
        cuda.upload(state.seeds, seeds.repeat(self._width))
        upload_settings(cuda, state.scales, state.top_ks, settings)
        for array in (state.drawn, state.counts, state.ends, state.passes, state.first_places):
            cuda.upload(array, np.zeros(array.shape, np.int64))
        self._prefill.last(prompt_RTD, lengths_R, state.first_hidden)
        cuda.synchronize()  # the uploads' sources may be freed now

    def _sends(self) -> Iterator[Send]:
        """Yield what to send: the prompt's code, a pass, and then that pass, captured."""
        yield self._first
        if self._captured is None:
            yield self._pass
            self._captured = self._cuda.capture(self._pass, self._is_capturable)
        while True:
            yield self._captured

    def _sent(
        self, sender: Iterator[Send], count: int, page: list[np.ndarray], clock: DeviceClock
    ) -> _Batch:
        """Send some passes, and ask for what is then drawn."""
        events = []
        for _ in range(count):
            send = next(sender)
            with clock.sending():
                send()
            events.append(Event(self._cuda))
        drawn, ends = page
        self._cuda.download(drawn, self._state.drawn)
        self._cuda.download(ends, self._state.ends)
        return _Batch(drawn, ends, events, Event(self._cuda))


@dataclass(frozen=True)
class _Batch:
    """Passes that were sent, and where the host finds what is drawn when they have ended."""

    drawn: np.ndarray
    ends: np.ndarray
    events: list[Event]
    there: Event


@dataclass
class _Found:
    """Keeps what the host knows. ``events``: the start, and the end of each pass that was read."""

    num: int
    width: int
    clock: DeviceClock
    events: list[Event]
    drawn: int = 0  # codes that all images have
    before: int = 0  # codes of all images together

    @property
    def is_complete(self) -> bool:
        """True if all images are drawn."""
        return self.drawn == self.num

    def needed(self, flying: int) -> int:
        """Return how many more passes are needed at least, with so many sent and not yet read."""
        left = -(-(self.num - self.drawn) // self.width) - flying
        return min(max(left, 0), _AT_ONCE)

    def read(self, batch: _Batch) -> Iterator[np.ndarray]:
        """Wait for passes, and yield the codes that all images now have."""
        batch.there.wait()
        for event in batch.events:
            done = len(self.events) - 1
            counts_B = batch.ends[:, done]
            took_ms = event.ms_since(self.events[-1])
            self.events.append(event)
            added, self.before = int(counts_B.sum()) - self.before, int(counts_B.sum())
            if done:  # the first code is the prompt's
                self.clock.passes.append(Pass(width=self.width, codes=added, took_ms=took_ms))
            for position in range(self.drawn, int(counts_B.min())):
                codes_B = batch.drawn[:, position].copy()
                if (codes_B < 0).any():  # the kernel refuses the logits with -1
                    raise unsound("logits")
                self.clock.ends_ms.append(event.ms_since(self.events[0]))
                self.drawn += 1
                yield codes_B


@dataclass(frozen=True)
class _State:
    """Holds what a pass reads and writes (``kernels/take.py``); ``first``: of the first code."""

    embeds: DeviceArray  # (R, T, D)
    positions: DeviceArray  # (R, T)
    lengths: DeviceArray  # (R,): of the sequences, after the pass
    prompts: DeviceArray  # (R,): their lengths
    hidden: DeviceArray  # (R, T, D)
    logits: DeviceArray  # (R T, V)
    chosen: DeviceArray  # (B, T)
    seeds: DeviceArray  # (B, T)
    places: DeviceArray  # (B, T)
    first_hidden: DeviceArray  # (R, D)
    first_logits: DeviceArray  # (R, V)
    first_chosen: DeviceArray  # (B, 1)
    first_seeds: DeviceArray  # (B,)
    first_places: DeviceArray  # (B,)
    scales: DeviceArray  # (2,): guidance scale, temperature
    top_ks: DeviceArray  # (1,)
    drawn: DeviceArray  # (B, N + T)
    counts: DeviceArray  # (B,)
    ends: DeviceArray  # (B, N)
    passes: DeviceArray  # (B,)
    table: DeviceArray  # (V, D)

    @classmethod
    def of(
        cls, cuda: Cuda, sizes: CodeSizes, table_VD: np.ndarray, rows: int, images: int, width: int
    ) -> _State:
        """Return buffers on the device, with the table of code embeddings."""
        size, codes, num = sizes.hidden_size, sizes.codebook_size, sizes.num_codes

        def new(*shape: int, kind: str = "int64") -> DeviceArray:
            return cuda.array(shape, kind)

        return cls(
            embeds=new(rows, width, size, kind="float32"),
            positions=new(rows, width),
            lengths=new(rows),
            prompts=new(rows),
            hidden=new(rows, width, size, kind="float32"),
            logits=new(rows * width, codes, kind="float32"),
            **{name: new(images, width) for name in ("chosen", "seeds", "places")},
            first_hidden=new(rows, size, kind="float32"),
            first_logits=new(rows, codes, kind="float32"),
            first_chosen=new(images, 1),
            **{name: new(images) for name in ("first_seeds", "first_places", "counts", "passes")},
            scales=new(2, kind="float32"),
            top_ks=new(1, kind="int32"),
            drawn=new(images, num + width),
            ends=new(images, num),
            table=cuda.uploaded(table_VD, "float16"),
        )


def _launches(
    gpu: Gpu, decoder: DeviceEngine, image_head: DeviceEngine, caches: KVCache, state: _State
) -> tuple[Send, Send, Callable[[], bool]]:
    """Return what chooses the prompt's code, a pass, and whether the engines let it be captured."""
    (images, width), (rows, _, size) = state.chosen.shape, state.hidden.shape
    inputs = {name: getattr(state, name) for name in ("embeds", "positions", "lengths")}
    outputs = {"hidden": state.hidden, **caches.present}
    decode = decoder.prepare_enqueue({**inputs, **caches.past}, outputs)
    hidden = state.hidden.view((rows * width, size))
    head = image_head.prepare_enqueue({"hidden": hidden}, {"logits": state.logits})
    first_head = image_head.prepare_enqueue(
        {"hidden": state.first_hidden}, {"logits": state.first_logits}
    )

    def choose(logits: DeviceArray, *own: DeviceArray) -> None:
        chosen, count = own[0], own[0].shape[0] * own[0].shape[1]
        numbers = (state.scales, state.top_ks, STREAMS["image"], count)
        gpu.kernels.launch("sample", count, logits, *own, *numbers)
        counters = (state.drawn, state.counts, state.ends, state.passes, state.places)
        rows_of = (state.positions, state.lengths, state.prompts)
        arrays = (chosen, state.table, state.embeds, *counters, *rows_of)
        sizes = (chosen.shape[1], width, images, rows, state.ends.shape[1])
        gpu.kernels.launch("take", images, *arrays, *sizes)

    def first() -> None:
        first_head()
        choose(state.first_logits, state.first_chosen, state.first_seeds, state.first_places)

    def one_pass() -> None:
        decode()
        head()
        choose(state.logits, state.chosen, state.seeds, state.places)

    return first, one_pass, lambda: decode.is_capturable() and head.is_capturable()
