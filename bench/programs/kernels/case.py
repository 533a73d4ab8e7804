"""What is timed of a kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Case:
    """ours, eager: the same work by the kernel and by PyTorch. num_bytes: what must be read and
    written at least."""

    shape: str
    ours: Callable[[], object]
    eager: Callable[[], object]
    num_bytes: int
