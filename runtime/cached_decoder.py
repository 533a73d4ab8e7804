"""The decoder with its KV caches: prefill, then one or several positions at a time.

Shapes: R rows, T positions, D width, M cache length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from janus_edge.runtime.backends import Engine
from janus_edge.runtime.kv_cache import KVCache
from janus_edge.runtime.sizes import Sizes


class _Bound(NamedTuple):
    """What computes T positions, and the arrays that it reads and writes."""

    call: Callable[[], None]
    embeds_RTD: np.ndarray
    positions_RT: np.ndarray
    lengths_R: np.ndarray
    hidden_RTD: np.ndarray


class CachedDecoder:
    """The decoder with its KV caches: fixed buffers, written in place."""

    def __init__(
        self,
        engine: Engine,
        sizes: Sizes,
        rows: int,
        max_length: int,
        cache_type: str = "float32",
        prefill_engine: Engine | None = None,
        *,
        row_by_row: bool = False,
    ) -> None:
        """Allocate the caches.

        Args:
            engine: The engine for what follows the prompts, and for these if ``prefill_engine`` is
                None.
            sizes: The sizes of the bundle.
            rows: Rows of the caches.
            max_length: Positions of the caches.
            cache_type: Dtype of the caches.
            prefill_engine: A copy of the decoder for many positions at once.
            row_by_row: Compute several positions on a filled cache one row after the other, as the
                engine takes no more.

        Raises:
            DeviceError: A device has no room.
        """
        self._engine, self._prefill_engine = engine, prefill_engine or engine
        self._rows, self._max_length, self._row_by_row = rows, max_length, row_by_row
        self._cache = KVCache.zeros(engine, sizes, rows, max_length, cache_type)
        self._kept_R = np.zeros(rows, np.int64)
        self._bound: dict[int, _Bound] = {}

    @property
    def room(self) -> int:
        """How many positions the longest row has left."""
        return self._max_length - int(self._kept_R.max())

    def prefill(self, embeds_RTD: np.ndarray, lengths_R: np.ndarray) -> np.ndarray:
        """Start over with prompts and return the hidden states (R, D) of their last positions.

        The cache's positions beyond a prompt's length are never attended to, and later steps
        overwrite them.

        Args:
            embeds_RTD: Embeddings of the prompts, padded on the right.
            lengths_R: The prompts' lengths without padding.
        """
        time = embeds_RTD.shape[1]
        positions = np.tile(np.arange(time), (self._rows, 1))
        hidden, caches = np.empty_like(embeds_RTD), self._cache
        given = {
            "embeds": embeds_RTD,
            "positions": positions,
            "lengths": lengths_R.astype(np.int64),
        }
        made = {"hidden": hidden, **caches.present}
        self._prefill_engine.bind({**given, **caches.past}, made, often=False, last_only=True)()
        self._kept_R[:] = lengths_R
        return hidden[np.arange(self._rows), lengths_R - 1]

    def step(self, embeds_RD: np.ndarray) -> np.ndarray:
        """Add one position and return its hidden state (R, D), valid until the next step."""
        hidden_R1D = self.look_ahead(embeds_RD[:, None])
        self._kept_R += 1
        return hidden_R1D[:, 0]

    def look_ahead(
        self, embeds_RTD: np.ndarray, positions_RT: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the hidden states (R, T, D) of several more positions.

        The positions see what came before and each other, causally. They are not kept, unless
        ``keep`` says so: whatever follows starts from the same place. The result is valid until
        the next call with as many positions.

        Args:
            embeds_RTD: Embeddings; T is at most ``room``.
            positions_RT: Their positions, which may leave a gap after what came before. By default
                they follow it.
        """
        time = embeds_RTD.shape[1]
        if time not in self._bound:
            self._bound[time] = self._bind(*embeds_RTD.shape)
        bound = self._bound[time]
        bound.embeds_RTD[:] = embeds_RTD
        if positions_RT is None:
            positions_RT = self._kept_R[:, None] + np.arange(time)
        bound.positions_RT[:] = positions_RT
        bound.lengths_R[:] = self._kept_R + time
        bound.call()
        return bound.hidden_RTD

    def keep(self, counts_R: np.ndarray) -> None:
        """Keep the first positions of the last ``look_ahead``, of each row so many."""
        self._kept_R += counts_R

    def _bind(self, rows: int, time: int, width: int) -> _Bound:
        """Return what computes so many positions."""
        embeds, hidden = np.zeros((2, rows, time, width), np.float32)
        positions, lengths = np.zeros((rows, time), np.int64), np.zeros(rows, np.int64)
        at_once = 1 if self._row_by_row and time > 1 else rows
        calls = []
        for start in range(0, rows, at_once):
            part = slice(start, start + at_once)
            caches = self._cache if at_once == rows else self._cache.part(part)
            given = {
                "embeds": embeds[part],
                "positions": positions[part],
                "lengths": lengths[part],
            }
            made = {"hidden": hidden[part], **caches.present}
            calls.append(self._engine.bind({**given, **caches.past}, made))

        def call() -> None:
            for each in calls:
                each()

        return _Bound(calls[0] if len(calls) == 1 else call, embeds, positions, lengths, hidden)
