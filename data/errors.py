"""Errors of training data, each one line: where, what, what to do."""

from __future__ import annotations

from janus_edge.runtime.errors import JanusEdgeError


class DataError(JanusEdgeError):
    """Training data that cannot be used as a whole."""


class BrokenSample(DataError):
    """A sample that cannot be used.

    Attributes:
        name: The sample's name: shard and key, or file and line.
        reason: What is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        """Say what is wrong with which sample."""
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason

    def __reduce__(self) -> tuple[type[BrokenSample], tuple[str, str]]:
        """Return how another process makes the same error."""
        return BrokenSample, (self.name, self.reason)
