"""The KV cache: its names in a decoder's inputs and outputs, and its memory.

Every loop, every backend and the exporter take the names from here.

Shapes: R rows, G key-value heads, M cache length, E head width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from janus_edge.runtime.sizes import Sizes

PAST, PRESENT = "past_", "present_"  # prefixes of a decoder's inputs and outputs


class Allocator(Protocol):
    """What gives memory near an engine; every ``Engine`` does."""

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return cleared memory."""


def cache_names(num_layers: int) -> list[str]:
    """Return the names of all caches in a decoder's order: k_0, v_0, k_1, ..."""
    return [f"{part}_{index}" for index in range(num_layers) for part in "kv"]


def past_names(num_layers: int) -> list[str]:
    """Return the names of the decoder's cache inputs, in order."""
    return [PAST + name for name in cache_names(num_layers)]


def present_names(num_layers: int) -> list[str]:
    """Return the names of the decoder's cache outputs, in order."""
    return [PRESENT + name for name in cache_names(num_layers)]


def is_cache(name: str) -> bool:
    """Return True for a cache among a decoder's inputs and outputs."""
    return name.startswith((PAST, PRESENT))


@dataclass(frozen=True)
class KVCache:
    """Keys and values (R, G, M, E) of each layer, as a decoder binds them.

    Attributes:
        past: By the names of the decoder's inputs.
        present: The same memory by the names of its outputs, so that it is updated in place.
    """

    past: dict[str, Any]
    present: dict[str, Any]

    @classmethod
    def zeros(
        cls, allocator: Allocator, sizes: Sizes, rows: int, length: int, dtype: str
    ) -> KVCache:
        """Return an empty cache.

        Args:
            allocator: The engine that will read and write it.
            sizes: Of the model.
            rows: R.
            length: M, in positions.
            dtype: Of keys and values.

        Raises:
            DeviceError: The device has no room.
        """
        shape = (rows, sizes.num_kv_heads, length, sizes.head_dim)
        return cls.of(
            sizes.num_layers, (allocator.zeros(shape, dtype) for _ in range(2 * sizes.num_layers))
        )

    @classmethod
    def of(cls, num_layers: int, arrays: Iterable[Any]) -> KVCache:
        """Return a cache of arrays in the order of ``cache_names``."""
        made = list(arrays)
        return cls(
            dict(zip(past_names(num_layers), made, strict=True)),
            dict(zip(present_names(num_layers), made, strict=True)),
        )

    def part(self, rows: slice) -> KVCache:
        """Return some of the rows of all, for arrays on the host. They share the memory."""
        return KVCache.of(len(self.past) // 2, (array[rows] for array in self.past.values()))

    def rows(self, count: int) -> KVCache:
        """Return the first rows of all, for arrays on a device."""
        past, present = (
            {name: array.view((count, *array.shape[1:])) for name, array in side.items()}
            for side in (self.past, self.present)
        )
        return KVCache(past, present)
