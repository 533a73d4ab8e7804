"""Calls on arrays of the host, for engines that run on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from janus_edge.runtime.backends import Buffer, Buffers
from janus_edge.runtime.cuda import Cuda, DeviceArray


@dataclass(frozen=True)
class EnqueueCall:
    """A binding, which sends its work when it is called. ``kept``: what it reads and writes."""

    sends: list[Callable[[], None]]
    kept: tuple[Any, ...]

    def __call__(self) -> None:
        """Send the work. Raises DeviceError."""
        for send in self.sends:
            send()

    def is_capturable(self) -> bool:
        """Return True: nothing here waits or allocates."""
        return True


class DeviceEngine(Protocol):
    """An engine whose work the loops on a GPU enqueue."""

    def zeros(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """Return cleared memory on the device."""

    def prepare_enqueue(
        self,
        inputs: Mapping[str, DeviceArray],
        outputs: Mapping[str, DeviceArray],
        *,
        often: bool = True,
    ) -> Enqueued:
        """Return a call that sends the work to the stream and does not wait for it.

        ``often`` is that of ``Engine.bind``, and True if the call is to be captured.
        """


class Enqueued(Protocol):
    """A call that sends work to the stream."""

    def __call__(self) -> None:
        """Send the work. Raises DeviceError."""

    def is_capturable(self) -> bool:
        """Return False if a capture of this work would fail."""


Prepare = Callable[[Mapping[str, DeviceArray], Mapping[str, DeviceArray]], Callable[[], Any]]


def bound(
    cuda: Cuda, what: str, prepare: Prepare, inputs: Buffers, outputs: Buffers
) -> Callable[[], None]:
    """Return a call on fixed arrays, on the host or on the device; it returns when all is there.

    Args:
        cuda: The GPU.
        what: Names the engine in the error for memory that is short.
        prepare: Returns what sends the engine's work, from its inputs and outputs on the device.
        inputs: Arrays by the name of the input.
        outputs: Arrays by the name of the output; one of them may also be an input.
    """
    held: dict[int, DeviceArray] = {}

    def on_device(array: Buffer) -> DeviceArray:
        if isinstance(array, DeviceArray):
            return array
        if id(array) not in held:
            held[id(array)] = cuda.array(array.shape, array.dtype.name, what)
        return held[id(array)]

    given = {name: on_device(array) for name, array in inputs.items()}
    made = {name: on_device(array) for name, array in outputs.items()}
    send = prepare(given, made)
    sent, fetched = (
        [(device[n], array) for n, array in named.items() if isinstance(array, np.ndarray)]
        for device, named in ((given, inputs), (made, outputs))
    )

    def call() -> None:
        for there, here in sent:
            cuda.upload(there, here)
        send()
        for there, here in fetched:
            cuda.download(here, there)
        cuda.synchronize()

    return call
