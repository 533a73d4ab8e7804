"""Decodes images whose codes are drawn, between the passes of other sequences or beside them.

Beside passes a thread of its own decodes, with half of the threads (docs/serving.md).

Shapes: N codes, S side of the image.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:
    from janus_edge.runtime.engines import Engines

Key = TypeVar("Key")


class Pixels(NamedTuple):
    """A decoded image.

    Attributes:
        image: Its pixels (3, S, S), as the image decoder computes them.
        took_ms: How long that took.
    """

    image: np.ndarray
    took_ms: float


class Decoding(Generic[Key]):
    """Images that are drawn and not decoded yet, in order. Not for several threads."""

    def __init__(self, engines: Engines) -> None:
        """Begin without images.

        Args:
            engines: The bundle's engines.
        """
        self._engines = engines
        self._waiting: deque[tuple[Key, np.ndarray]] = deque()
        self._running: tuple[Key | None, Future[Pixels]] | None = None

    def __len__(self) -> int:
        """Return how many images are not decoded yet."""
        return len(self._waiting) + (self._running is not None)

    @property
    def is_beside(self) -> bool:
        """True while an image is decoded beside passes."""
        return self._running is not None and not self._running[1].done()

    def add(self, key: Key, codes_N: np.ndarray) -> None:
        """Take the codes of an image.

        Args:
            key: Names the image.
            codes_N: All its codes.
        """
        self._waiting.append((key, codes_N))

    def drop(self, key: Key) -> None:
        """Forget an image that nobody waits for."""
        self._waiting = deque(each for each in self._waiting if each[0] is not key)
        if self._running is not None and self._running[0] is key:
            self._running = None, self._running[1]
            self._engines.use(self._engines.num_threads)

    def stop(self) -> None:
        """Forget all images. One that is being decoded takes its thread a moment longer."""
        self._waiting.clear()
        self._running = None
        self._engines.use(self._engines.num_threads)

    def take(self, *, passes_follow: bool) -> tuple[Key, Pixels] | None:
        """Return an image that is decoded now; None if there is none.

        Args:
            passes_follow: True to wait for nothing that can run beside passes, and to start the
                next image there. False to decode the next image, or to wait for it.

        Raises:
            BundleError: The image decoder cannot be opened, or computes what is no finite number.
        """
        if self._running is not None and (self._running[1].done() or not passes_follow):
            (key, future), self._running = self._running, None
            self._engines.use(self._engines.num_threads)
            pixels = future.result()
            return self.take(passes_follow=passes_follow) if key is None else (key, pixels)
        beside = self._engines.beside if passes_follow else None
        if self._waiting and beside is None:
            key, codes_N = self._waiting.popleft()
            return key, decoded(self._engines, codes_N)
        if self._waiting and beside is not None and self._running is None:
            key, codes_N = self._waiting.popleft()
            self._running = key, beside.start(codes_N)
            self._engines.use(self._engines.num_threads - beside.num_threads)
        return None


class Beside:
    """A thread with engines of its own, which decodes images beside passes.

    Attributes:
        num_threads: Threads of its engines.
    """

    def __init__(self, engines: Engines) -> None:
        """Prepare the thread; it starts with the first image.

        Args:
            engines: The thread's own.
        """
        self._engines, self.num_threads = engines, engines.num_threads
        self._thread = ThreadPoolExecutor(1, "janus-edge decoding")

    def start(self, codes_N: np.ndarray) -> Future[Pixels]:
        """Decode an image, after those that were started before.

        Args:
            codes_N: Its codes.
        """
        return self._thread.submit(decoded, self._engines, codes_N)


def decoded(engines: Engines, codes_N: np.ndarray) -> Pixels:
    """Decode an image.

    Args:
        engines: The bundle's engines.
        codes_N: Its codes.

    Raises:
        BundleError: As of ``Decoding.take``.
    """
    image_decoder, began = engines["image_decoder"], time.perf_counter()
    (image,) = image_decoder.run({"codes": codes_N[None]})[0]
    return Pixels(image, (time.perf_counter() - began) * 1e3)
