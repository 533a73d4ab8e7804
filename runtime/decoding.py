"""Decodes images whose codes are drawn, between the passes of other sequences or beside them.

Beside passes a thread of its own decodes, with half of the threads (docs/serving.md).

Shapes: N codes, S side of the image.
"""

from __future__ import annotations

import os
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:
    from janus_edge.runtime.engines import Engines

Key = TypeVar("Key")

_MOMENT_S = 0.02  # after which others may have come


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
        self._running: _Running[Key] | None = None

    def __len__(self) -> int:
        """Return how many images are not decoded yet."""
        return len(self._waiting) + (self._running is not None)

    @property
    def is_beside(self) -> bool:
        """True while an image is decoded beside passes, until it is taken."""
        return self._running is not None

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
        if self._running is not None and self._running.key is key:
            self._running.is_dropped = True
            self._engines.use(self._engines.num_threads)

    def stop(self) -> None:
        """Forget all images. One that is being decoded takes its thread a moment longer."""
        self._waiting.clear()
        self._running = None
        self._engines.use(self._engines.num_threads)

    def take(self, *, passes_follow: bool) -> tuple[Key, Pixels | Exception] | None:
        """Return an image that is decoded now, or why it cannot be; None if there is none.

        Args:
            passes_follow: True to wait for nothing that can run beside passes, and to start the
                next image there. False to decode the next image, or to wait a moment for the one
                that is decoded beside passes.
        """
        running = self._running
        if running is not None and not (passes_follow or self._waiting):
            wait([running.future], timeout=_MOMENT_S)
        if running is not None and running.future.done():
            self._running = None
            self._engines.use(self._engines.num_threads)
            return self._made(running)
        if passes_follow and (running is not None or self._starts()):
            return None
        return self._decoded(*self._waiting.popleft()) if self._waiting else None

    def _starts(self) -> bool:
        """Start the next image beside passes. Return False if that cannot be done."""
        beside = self._engines.beside if self._waiting else None
        if beside is None:
            return False
        key, codes_N = self._waiting[0]
        try:
            future = beside.start(codes_N)
        except RuntimeError:  # no thread is left
            self._engines.beside = None
            return False
        self._running = _Running(key, codes_N, future)
        self._waiting.popleft()
        self._engines.use(self._engines.num_threads - beside.num_threads)
        return True

    def _made(self, running: _Running[Key]) -> tuple[Key, Pixels | Exception] | None:
        """Return what was decoded beside passes; after an error, decode it here, as all others."""
        failed = running.future.exception() is not None
        if failed:  # perhaps there was no memory to open a second image decoder
            self._engines.beside = None
        if running.is_dropped:
            return None
        if failed:
            return self._decoded(running.key, running.codes_N)
        return running.key, running.future.result()

    def _decoded(self, key: Key, codes_N: np.ndarray) -> tuple[Key, Pixels | Exception]:
        try:
            return key, decoded(self._engines, codes_N)
        except Exception as error:  # its own request ends with it
            return key, error


@dataclass
class _Running(Generic[Key]):
    """An image that is decoded beside passes."""

    key: Key
    codes_N: np.ndarray
    future: Future[Pixels]
    is_dropped: bool = False


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
        self._process, self._thread = -1, ThreadPoolExecutor(1)

    def start(self, codes_N: np.ndarray) -> Future[Pixels]:
        """Decode an image, after those that were started before.

        Args:
            codes_N: Its codes.

        Raises:
            RuntimeError: The system has no thread left.
        """
        if self._process != os.getpid():  # a fork has no threads but one
            self._process = os.getpid()
            self._thread = ThreadPoolExecutor(1, "janus-edge decoding")
        return self._thread.submit(decoded, self._engines, codes_N)


def decoded(engines: Engines, codes_N: np.ndarray) -> Pixels:
    """Decode an image.

    Args:
        engines: The bundle's engines.
        codes_N: Its codes.

    Raises:
        BundleError: The image decoder cannot be opened, or computes what is no finite number.
    """
    image_decoder, began = engines["image_decoder"], time.perf_counter()
    (image,) = image_decoder.run({"codes": codes_N[None]})[0]
    return Pixels(image, (time.perf_counter() - began) * 1e3)
