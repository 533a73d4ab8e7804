"""What a session keeps for later requests, within a number of bytes (docs/decoding.md).

Shapes: T positions, G key-value heads, E head width.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
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


class Kept:
    """Contexts and images' vectors. What was used longest ago goes first, when room is needed."""

    def __init__(self, most_bytes: int) -> None:
        """Keep nothing yet.

        Args:
            most_bytes: Room for all together; 0 keeps nothing.
        """
        self.most_bytes = most_bytes
        self._contexts: OrderedDict[bytes, Context] = OrderedDict()
        self._images: OrderedDict[bytes, np.ndarray] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        """How many bytes are kept."""
        contexts = sum(_num_bytes(each) for each in self._contexts.values())
        return contexts + sum(each.nbytes for each in self._images.values())

    def find(self, key_T: np.ndarray) -> Context | None:
        """Return the longest beginning of a sequence whose keys and values are kept.

        Args:
            key_T: The sequence.
        """
        best, name = 0, b""
        for each, context in self._contexts.items():
            if (shared := _num_shared(key_T, context.key_T)) > best:
                best, name = shared, each
        if best == 0:
            return None
        self._contexts.move_to_end(name)
        found = self._contexts[name]
        return Context(found.key_T[:best], [each[:, :best] for each in found.caches])

    def keep(self, context: Context) -> None:
        """Keep a context in place of those that it continues."""
        length = len(context.key_T)
        for name, known in list(self._contexts.items()):
            shared = _num_shared(context.key_T, known.key_T)
            if shared == length:  # it is kept, and more
                self._contexts.move_to_end(name)
                return
            if shared == len(known.key_T):
                del self._contexts[name]
        self._contexts[context.key_T.tobytes()] = context
        self._make_room()

    def image(self, digest: bytes) -> np.ndarray | None:
        """Return the vectors of an image, if they are kept."""
        if digest in self._images:
            self._images.move_to_end(digest)
        return self._images.get(digest)

    def keep_image(self, digest: bytes, vectors: np.ndarray) -> None:
        """Keep the vectors of an image."""
        self._images[digest] = vectors
        self._make_room()

    def _make_room(self) -> None:
        """Forget contexts, then images' vectors, which are cheaper to keep."""
        for each in (self._contexts, self._images):
            while each and self.num_bytes > self.most_bytes:
                each.popitem(last=False)


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
    if kept.most_bytes > 0 and decoder.is_on_host:
        caches = decoder.saved(row, len(key_T))
        kept.keep(Context(key_T[: caches[0].shape[1]], caches))


def image_digest(pixels: np.ndarray) -> bytes:
    """Return what tells images apart: the SHA-256 of what the vision encoder reads."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).digest()


def image_key(digest: bytes) -> int:
    """Return what stands for an image's vectors in a context's key: below 0, as no token's id."""
    return -1 - int.from_bytes(digest[:8], "big") // 2


def _num_bytes(context: Context) -> int:
    return context.key_T.nbytes + sum(each.nbytes for each in context.caches)


def _num_shared(a_T: np.ndarray, b_T: np.ndarray) -> int:
    """Return how many positions two sequences begin with alike."""
    length = min(len(a_T), len(b_T))
    differs = np.flatnonzero(a_T[:length] != b_T[:length])
    return int(differs[0]) if len(differs) else length
