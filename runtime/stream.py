"""Streams: what comes while a request runs, for ``for`` and for ``async for``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Generic, Self, TypeVar, cast

T = TypeVar("T")
_END = object()


class Stream(Generic[T], Iterator[T], AsyncIterator[T]):
    """Give what comes while a request runs, to ``for`` and to ``async for``.

    Closing it, or leaving its ``with``, ends the request where it is.
    """

    def __init__(self, items: Iterator[T], close: Callable[[], None]) -> None:
        """Take the items and what ends the request."""
        self._items, self._close = items, close

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> T:
        """Return what comes next; work until then."""
        return next(self._items)

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> T:
        """Return what comes next; a thread works until then."""
        found = await asyncio.to_thread(next, self._items, _END)
        if found is _END:
            raise StopAsyncIteration
        return cast(T, found)

    def close(self) -> None:
        """End the request."""
        self._close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the request."""
        self.close()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """End the request."""
        await asyncio.to_thread(self.close)
