"""What is timed of a kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Case:
    """The same work by a kernel and by PyTorch.

    Attributes:
        shape: What it works on, in words.
        ours: Runs the kernel.
        eager: Runs PyTorch's way.
        num_bytes: Bytes that must be read and written at least.
    """

    shape: str
    ours: Callable[[], object]
    eager: Callable[[], object]
    num_bytes: int
