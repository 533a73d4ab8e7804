"""The decode loop of a code model on a GPU: the host starts steps and reads codes in batches.

Decoder, head, sampler and look-up are one captured launch a code; positions, lengths and codes stay
on the device. Shapes: see ``runtime/decode.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from janus_edge.runtime.backends.cubins import Gpu
from janus_edge.runtime.backends.tensorrt import TensorRTEngine
from janus_edge.runtime.cuda import Cuda, DeviceArray, Event
from janus_edge.runtime.decode import Settings
from janus_edge.runtime.manifest import CodeSizes, Sizes
from janus_edge.runtime.sampling import STREAMS
from janus_edge.runtime.timing import DeviceClock

Send = Callable[[], None]  # puts work into the stream


@dataclass(frozen=True)
class Caches:
    """A decoder's keys and values on the device, (R, G, M, E) each, by the names of its inputs and
    outputs."""

    past: dict[str, DeviceArray]
    present: dict[str, DeviceArray]

    @classmethod
    def zeros(cls, decoder: TensorRTEngine, sizes: Sizes, rows: int, dtype: str) -> Caches:
        """Empty ones. Raises DeviceError where there is no room."""
        shape = (rows, sizes.num_kv_heads, sizes.max_length, sizes.head_dim)
        names = [f"{part}_{i}" for i in range(sizes.num_layers) for part in "kv"]
        made = {name: decoder.zeros(shape, dtype) for name in names}
        return cls(
            {f"past_{name}": array for name, array in made.items()},
            {f"present_{name}": array for name, array in made.items()},
        )

    def rows(self, count: int) -> Caches:
        """The first rows of all."""
        past, present = (
            {name: array.view((count, *array.shape[1:])) for name, array in side.items()}
            for side in (self.past, self.present)
        )
        return Caches(past, present)


def prefill(
    cuda: Cuda,
    decoder: TensorRTEngine,
    caches: Caches,
    prompt_RTD: np.ndarray,
    lengths_R: np.ndarray,
) -> DeviceArray:
    """Fill caches with prompts padded on the right; their hidden states (R, T, D), which are there
    when this returns."""
    rows, time, _ = prompt_RTD.shape
    inputs = {
        "embeds": cuda.uploaded(prompt_RTD, "float32"),
        "positions": cuda.uploaded(np.tile(np.arange(time), (rows, 1)), "int64"),
        "lengths": cuda.uploaded(lengths_R, "int64"),
    }
    hidden = cuda.array(prompt_RTD.shape, "float32")
    decoder.enqueued({**inputs, **caches.past}, {"hidden": hidden, **caches.present}, often=False)()
    cuda.synchronize()  # before the inputs' memory goes
    return hidden


def decode_codes(
    gpu: Gpu,
    decoder: TensorRTEngine,
    image_head: TensorRTEngine,
    caches: Caches,
    sizes: CodeSizes,
    code_embed_VD: np.ndarray,
    prompt_RTD: np.ndarray,
    lengths_R: np.ndarray,
    seeds_B: np.ndarray,
    settings: Settings,
    clock: DeviceClock,
) -> Iterator[np.ndarray]:
    """Yield the codes (B,) of each position, a row of a picture's at once but for the very first;
    rows and prompts: see ``runtime.decode``. top_p of the settings is 1: the kernel has no
    other."""
    assert settings.top_p == 1.0
    cuda, num = gpu.cuda, sizes.num_codes
    start = Event(cuda)
    state = _State.of(cuda, sizes, code_embed_VD, lengths_R, seeds_B)
    last = prefill(cuda, decoder, caches, prompt_RTD, lengths_R)
    step = _step(gpu, decoder, image_head, caches, state, settings)
    _, time, width = prompt_RTD.shape
    for row, length in enumerate(lengths_R):
        at = last.view((width,), (row * time + int(length) - 1) * width)
        cuda.copy(state.hidden.view((width,), row * width).address, at.address, at.nbytes)
    borders = sorted({0, 1, *range(sizes.code_grid, num, sizes.code_grid), num})
    sender = _sends(cuda, step)
    pages = [cuda.pinned(state.drawn.shape, "int64") for _ in range(2)]
    waiting: list[tuple[np.ndarray, list[Event], int]] = []
    try:
        for index, (first, stop) in enumerate(pairwise(borders)):
            events = []
            for _ in range(first, stop):
                send = next(sender)
                with clock.sending():
                    send()
                events.append(Event(cuda))
            page = pages[index % 2]
            cuda.download(page, state.drawn)
            waiting.append((page, [*events, Event(cuda)], first))
            while len(waiting) > (0 if index == 0 else 1):  # the device has work meanwhile
                yield from _read(start, *waiting.pop(0), clock)
        for each in waiting:
            yield from _read(start, *each, clock)
    finally:
        cuda.synchronize()  # before any memory goes


@dataclass(frozen=True)
class _State:
    """What a step reads and writes. Rows R, pictures B, codes N."""

    embeds: DeviceArray  # (R, 1, D)
    positions: DeviceArray  # (R, 1)
    lengths: DeviceArray  # (R,)
    hidden: DeviceArray  # (R, 1, D)
    logits: DeviceArray  # (R, V)
    codes: DeviceArray  # (B,)
    seeds: DeviceArray  # (B,)
    drawn: DeviceArray  # (B, N)
    counters: DeviceArray  # (B,): codes drawn so far
    table: DeviceArray  # (V, D)

    @classmethod
    def of(
        cls,
        cuda: Cuda,
        sizes: CodeSizes,
        table_VD: np.ndarray,
        lengths_R: np.ndarray,
        seeds_B: np.ndarray,
    ) -> _State:
        rows, pictures, width = len(lengths_R), len(seeds_B), sizes.hidden_size
        return cls(
            embeds=cuda.array((rows, 1, width), "float32"),
            positions=cuda.array((rows, 1), "int64"),
            lengths=cuda.uploaded(lengths_R, "int64"),
            hidden=cuda.array((rows, 1, width), "float32"),
            logits=cuda.array((rows, sizes.codebook_size), "float32"),
            codes=cuda.array((pictures,), "int64"),
            seeds=cuda.uploaded(np.asarray(seeds_B, np.uint64).view(np.int64)),
            drawn=cuda.zeros((pictures, sizes.num_codes), "int64"),
            counters=cuda.zeros((pictures,), "int64"),
            table=cuda.uploaded(table_VD, "float16"),
        )


def _step(
    gpu: Gpu,
    decoder: TensorRTEngine,
    image_head: TensorRTEngine,
    caches: Caches,
    state: _State,
    settings: Settings,
) -> tuple[Send, Send]:
    """The decoder's part of a step, and the rest: head, sampler, look-up."""
    inputs = {name: getattr(state, name) for name in ("embeds", "positions", "lengths")}
    outputs = {"hidden": state.hidden, **caches.present}
    decode = decoder.enqueued({**inputs, **caches.past}, outputs)
    rows, _, width = state.hidden.shape
    hidden = state.hidden.view((rows, width))
    head = image_head.enqueued({"hidden": hidden}, {"logits": state.logits})
    pictures, num = state.drawn.shape
    numbers = (
        float(settings.guidance_scale if settings.guided else 1.0),
        float(settings.temperature),
        int(settings.top_k),
        STREAMS["image"],
        pictures,
        state.logits.shape[1],
    )

    def choose() -> None:
        head()
        drawing = (state.logits, state.codes, state.seeds, state.counters)
        gpu.kernels.launch("sample", pictures, *drawing, *numbers)
        rest = (state.drawn, state.counters, state.positions, state.lengths, pictures, rows, num)
        gpu.kernels.launch("look_up", pictures, state.codes, state.table, state.embeds, *rest)

    return decode, choose


def _sends(cuda: Cuda, step: tuple[Send, Send]) -> Iterator[Send]:
    """What to send for each code: the first needs no decoder; the second is a step by itself, as
    engines may set things up when they first run; all others are that step, captured."""
    decode, choose = step

    def both() -> None:
        decode()
        choose()

    yield choose
    yield both
    launch = cuda.capture(both)
    while True:
        yield launch


def _read(
    start: Event, page_BN: np.ndarray, events: list[Event], first: int, clock: DeviceClock
) -> Iterator[np.ndarray]:
    *each, there = events
    there.wait()
    for position, event in enumerate(each, first):
        clock.ends_ms.append(event.ms_since(start))
        yield page_BN[:, position].copy()
