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
from janus_edge.runtime.timed_engine import check_finite


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
        self._bound: dict[tuple[int, ...], _Bound] = {}

    @property
    def is_on_host(self) -> bool:
        """True if the caches can be copied here; False if they lie on a device."""
        return all(isinstance(each, np.ndarray) for each in self._cache.past.values())

    @property
    def room(self) -> int:
        """How many positions the longest row has left."""
        return self._max_length - int(self._kept_R.max())

    def clear(self) -> None:
        """Forget all positions, so that other prompts can be computed."""
        self._kept_R[:] = 0

    def restore(self, row: int, caches: list[np.ndarray]) -> None:
        """Take the keys and values of a row's first positions, as ``saved`` returned them.

        Args:
            row: The row.
            caches: Keys and values (G, T, E) in the order of ``cache_names``.
        """
        for target, source in zip(self._cache.past.values(), caches, strict=True):
            target[row, :, : source.shape[1]] = source
        self._kept_R[row] = caches[0].shape[1]

    def num_saved_bytes(self, row: int) -> int:
        """Return the bytes of a row's keys and values."""
        arrays = self._cache.past.values()
        return sum(each.nbytes // each.shape[0] // each.shape[2] for each in arrays) * int(
            self._kept_R[row]
        )

    def saved(self, row: int, most: int) -> list[np.ndarray]:
        """Return copies of the keys and values of a row's first positions.

        Args:
            row: The row.
            most: The most positions; fewer if fewer are kept.
        """
        length = min(int(self._kept_R[row]), most)
        return [each[row, :, :length].copy() for each in self._cache.past.values()]

    def prefill(self, embeds_UTD: np.ndarray, lengths_U: np.ndarray) -> np.ndarray:
        """Compute prompts; return the hidden states (U, D) of their last positions.

        Positions that were restored are not computed again; at least one is left of each prompt. A
        cache's positions beyond a prompt's length are never attended to, and later steps overwrite
        them.

        Args:
            embeds_UTD: Embeddings of the prompts of the first U rows, padded on the right.
            lengths_U: The prompts' lengths without padding.

        Raises:
            BundleError: A number is not finite.
        """
        rows = len(lengths_U)
        at_once = 1 if self._row_by_row and self._kept_R.any() else rows
        parts = [slice(start, start + at_once) for start in range(0, rows, at_once)]
        return np.concatenate([self._prefill_part(embeds_UTD, lengths_U, part) for part in parts])

    def _prefill_part(self, embeds: np.ndarray, lengths_U: np.ndarray, part: slice) -> np.ndarray:
        """Compute the prompts of some rows: of each the last T positions, which all rows need."""
        lengths, kept = lengths_U[part].astype(np.int64), self._kept_R[part]
        time = int((lengths - kept[: len(lengths)]).max())
        positions = np.maximum(lengths - time, 0)[:, None] + np.arange(time)
        rows = np.arange(len(lengths))
        given = {
            "embeds": embeds[part][rows[:, None], np.minimum(positions, embeds.shape[1] - 1)],
            "positions": positions,
            "lengths": lengths,
        }
        caches = self._cache if len(lengths) == self._rows else self._cache.part(part)
        made = {"hidden": np.empty_like(given["embeds"]), **caches.present}
        self._prefill_engine.bind({**given, **caches.past}, made, often=False, last_only=True)()
        kept[: len(lengths)] = lengths
        hidden_UD = made["hidden"][rows, np.minimum(lengths, time) - 1]
        check_finite("decoder", (hidden_UD,))
        return hidden_UD

    def repeat(self, sources_R: np.ndarray) -> None:
        """Give each row the keys and values of another, as far as they are known.

        Args:
            sources_R: The rows to copy; none comes after the row that it is copied to.
        """
        for row in reversed(range(self._rows)):
            if (source := int(sources_R[row])) != row:
                self.move(source, row)

    def move(self, source: int, target: int) -> None:
        """Give a row the keys and values of another."""
        length = int(self._kept_R[source])
        for each in self._cache.past.values():
            each[target, :, :length] = each[source, :, :length]
        self._kept_R[target] = length

    def forget(self, row: int) -> None:
        """Forget the positions of a row."""
        self._kept_R[row] = 0

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
            embeds_RTD: Embeddings; T is at most ``room``. They may be of the first rows alone where
                the caches are on the host.
            positions_RT: Their positions, which may leave a gap after what came before. By default
                they follow it.

        Raises:
            BundleError: A number is not finite.
        """
        rows, time = embeds_RTD.shape[:2]
        if embeds_RTD.shape not in self._bound:
            self._bound[embeds_RTD.shape] = self._bind(*embeds_RTD.shape)
        bound, kept_R = self._bound[embeds_RTD.shape], self._kept_R[:rows]
        bound.embeds_RTD[:] = embeds_RTD
        if positions_RT is None:
            positions_RT = kept_R[:, None] + np.arange(time)
        bound.positions_RT[:] = positions_RT
        bound.lengths_R[:] = kept_R + time
        bound.call()
        check_finite("decoder", (bound.hidden_RTD,))  # heads that round to 8 bits would hide it
        return bound.hidden_RTD

    def keep(self, counts_R: np.ndarray) -> None:
        """Keep the first positions of the last ``look_ahead``, of each row so many."""
        self._kept_R[: len(counts_R)] += counts_R

    def _bind(self, rows: int, time: int, width: int) -> _Bound:
        """Return what computes so many positions."""
        embeds, hidden = np.zeros((2, rows, time, width), np.float32)
        positions, lengths = np.zeros((rows, time), np.int64), np.zeros(rows, np.int64)
        at_once = 1 if self._row_by_row and time > 1 else rows
        calls = []
        for start in range(0, rows, at_once):
            part = slice(start, start + at_once)
            caches = self._cache if at_once == self._rows else self._cache.part(part)
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
