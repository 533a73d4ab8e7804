"""An endless shuffled order, computed from the position alone: no list, whatever the count.

Each epoch is a permutation of its own: a Feistel network over the next power of four, walked again
where it leaves the range (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). It is
64-bit integer arithmetic, the same on every machine.
"""

from __future__ import annotations

import numpy as np

from janus_edge.data.errors import DataError

_ROUNDS = 8
_STEP = 0x9E3779B97F4A7C15  # splitmix64's
_MIXERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_WORD = 2**64 - 1


class Order:
    """A shuffled order of ``count`` examples, each once an epoch."""

    def __init__(self, count: int, seed: int) -> None:
        """Take the number of examples and the seed of the shuffle.

        Raises:
            DataError: There are no examples, or more than 2^62.
        """
        if not 1 <= count <= 2**62:
            raise DataError(f"an order of {count} examples; give from 1 to 2^62")
        self.count = count
        self._half = np.uint64(max(1, -(-(count - 1).bit_length() // 2)))  # bits
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._seed = _mixed(np.array([seed & _WORD], np.uint64))[0]

    def index(self, n: int) -> int:
        """Return the n-th example of the stream."""
        return int(self.indices(n, n + 1)[0])

    def indices(self, start: int, end: int) -> np.ndarray:
        """Return the examples from position ``start`` to before ``end``, int64."""
        positions = np.arange(start, end, dtype=np.uint64)
        epochs, values = np.divmod(positions, np.uint64(self.count))
        values = self._permuted(values, epochs)
        while (outside := np.flatnonzero(values >= np.uint64(self.count))).size:
            values[outside] = self._permuted(values[outside], epochs[outside])
        return values.astype(np.int64)

    def _permuted(self, values: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """Return values below 2^(2 half), permuted for their epochs."""
        left, right = values >> self._half, values & self._mask
        key = _mixed(epochs ^ self._seed)
        for number in range(_ROUNDS):
            mixed = _mixed(right ^ _mixed(key ^ np.uint64(number)))
            left, right = right, left ^ (mixed & self._mask)
        return (left << self._half) | right


def _mixed(words: np.ndarray) -> np.ndarray:
    """Return splitmix64's hash of 64-bit words."""
    words = words + np.uint64(_STEP)
    for shift, factor in _MIXERS:
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    return words ^ (words >> np.uint64(31))
