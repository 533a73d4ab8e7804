"""What a session keeps for later requests, within a number of bytes (docs/decoding.md).

Shapes: T positions, G key-value heads, E head width.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from janus_edge.runtime.cached_decoder import CachedDecoder

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Context:
    """Keys and values of a sequence's first positions.

    Attributes:
        key_T: What the positions hold: ids of tokens, and for an image's vectors ``image_key``.
        caches: Keys and values (G, T, E) in the order of ``cache_names``.
    """

    key_T: np.ndarray
    caches: Arrays

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return self.key_T.nbytes + sum(each.nbytes for each in self.caches)


class Kept:
    """Contexts and images' vectors. What was used longest ago goes first, when room is needed.

    For several threads: an iterator that is dropped ends on whichever thread drops it.
    """

    def __init__(self, most_bytes: int) -> None:
        """Keep nothing yet.

        Args:
            most_bytes: Room for all together; 0 keeps nothing.
        """
        self.most_bytes, self.num_bytes = most_bytes, 0
        self._items: OrderedDict[bytes, Context | np.ndarray] = OrderedDict()  # oldest first
        self._lock = threading.RLock()  # a dropped iterator may end inside of a call

    def find(self, key_T: np.ndarray) -> Context | None:
        """Return the longest beginning of a sequence whose keys and values are kept.

        Args:
            key_T: The sequence.
        """
        best, name, found = 0, b"", None
        with self._lock:
            for each, context in self._contexts():
                if (shared := _num_shared(key_T, context.key_T)) > best:
                    best, name, found = shared, each, context
            if found is None:
                return None
            self._touch(name)
        return Context(found.key_T[:best], [each[:, :best] for each in found.caches])

    def keep(self, context: Context) -> None:
        """Keep a context in place of those that it continues."""
        length = len(context.key_T)
        with self._lock:
            for name, known in self._contexts():
                shared = _num_shared(context.key_T, known.key_T)
                if shared == length:  # it is kept, and more
                    self._touch(name)
                    return
                if shared == len(known.key_T):
                    self._forget(name)
            self._add(b"context" + context.key_T.tobytes(), context)

    def image(self, digest: bytes) -> np.ndarray | None:
        """Return the vectors of an image, if they are kept."""
        with self._lock:
            self._touch(digest)
            found = self._items.get(digest)
        return found if isinstance(found, np.ndarray) else None

    def keep_image(self, digest: bytes, vectors: np.ndarray) -> None:
        """Keep the vectors of an image."""
        with self._lock:
            self._add(digest, vectors)

    def _touch(self, name: bytes) -> None:
        """Count an item as used now, if it is still there."""
        if name in self._items:
            self._items.move_to_end(name)

    def _contexts(self) -> list[tuple[bytes, Context]]:
        items = list(self._items.items())  # at once: a dropped iterator may change them
        return [(name, each) for name, each in items if isinstance(each, Context)]

    def _add(self, name: bytes, item: Context | np.ndarray) -> None:
        """Add an item, unless it is larger than all the room; forget what was used longest ago."""
        if item.nbytes > self.most_bytes:
            return
        self._forget(name)
        self._items[name] = item
        self.num_bytes += item.nbytes
        while self.num_bytes > self.most_bytes:
            self._forget(next(iter(self._items)))

    def _forget(self, name: bytes) -> None:
        item = self._items.pop(name, None)
        self.num_bytes -= 0 if item is None else item.nbytes


def restore(kept: Kept, decoder: CachedDecoder, row: int, key_T: np.ndarray) -> None:
    """Give a row of a decoder what is kept of a prompt, less its last position.

    Args:
        kept: What is kept.
        decoder: The decoder, with empty caches.
        row: The row.
        key_T: The prompt.
    """
    context = kept.find(key_T[:-1])
    if context is not None and decoder.is_on_host:
        decoder.restore(row, context.caches)


def keep_row(kept: Kept, decoder: CachedDecoder, row: int, key_T: np.ndarray) -> None:
    """Keep what a row of a decoder has computed.

    Args:
        kept: What is kept.
        decoder: The decoder.
        row: The row.
        key_T: The row's positions, as far as they are known.
    """
    with suppress(MemoryError):  # then nothing is kept
        if not decoder.is_on_host or decoder.num_saved_bytes(row) > kept.most_bytes:
            return
        caches = decoder.saved(row, len(key_T))
        kept.keep(Context(key_T[: caches[0].shape[1]], caches))


def image_digest(pixels: np.ndarray) -> bytes:
    """Return what tells images apart: the SHA-256 of what the vision encoder reads."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).digest()


def image_key(digest: bytes) -> int:
    """Return what stands for an image's vectors in a context's key: below 0, as no token's id."""
    return -1 - int.from_bytes(digest[:8], "big") // 2


def _num_shared(a_T: np.ndarray, b_T: np.ndarray) -> int:
    """Return how many positions two sequences begin with alike."""
    length = min(len(a_T), len(b_T))
    differs = np.flatnonzero(a_T[:length] != b_T[:length])
    return int(differs[0]) if len(differs) else length
