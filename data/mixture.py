"""Which samples a step trains on: each role in a shuffled order of its own.

What is at a position of a role's stream depends on the data, the seed and the position alone. So
any number of processes may share a step, and a run resumes on another number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from janus_edge.data.errors import BrokenSample, DataError
from janus_edge.data.order import Order
from janus_edge.data.samples import Sample
from janus_edge.data.source import Role

_T = TypeVar("_T")
_TRIES = 100  # for one position, before the data counts as broken


@dataclass(frozen=True)
class Example:
    """A sample that is whole.

    Attributes:
        index: Its number in the role's shards.
        sample: What it says.
        pixels_HWC: Its image (H, W, 3) uint8, None if it has none.
    """

    index: int
    sample: Sample
    pixels_HWC: np.ndarray | None


class Mixture:
    """The examples of every step.

    Attributes:
        skipped: Why a sample was not used, by its name: what has been met so far. Shards that are
            cut or damaged are in it from the start.
    """

    def __init__(self, roles: Mapping[str, Role], seed: int) -> None:
        """Take the data of each role, and the seed of their orders."""
        self.roles = dict(roles)
        self._orders = {name: Order(len(r), _seed(seed, name)) for name, r in roles.items()}
        self.skipped: dict[str, str] = {}
        for role in roles.values():
            self.skipped |= role.shards.damage

    def examples(self, step: int, role: str, start: int, count: int) -> list[int]:
        """Return which samples of a role's shards a step has; what they say is whole.

        Args:
            step: Number of the step, for messages.
            role: The role.
            start: Number of the role's examples before this step.
            count: Number of its examples in this step.

        Raises:
            DataError: There is no such role, or its data is broken throughout.
        """
        say = self._role(role).sample
        return [self._whole(step, role, n, say)[0] for n in range(start, start + count)]

    def loaded(self, step: int, role: str, start: int, count: int) -> list[Example]:
        """Return a step's examples of a role; what they say and their images are whole.

        A sample whose image is broken is replaced here, and not in ``examples``, which opens none.

        Args:
            step: Number of the step, for messages.
            role: The role.
            start: Number of the role's examples before this step.
            count: Number of its examples in this step.

        Raises:
            DataError: There is no such role, or its data is broken throughout.
        """
        of = self._role(role)

        def load(i: int) -> Example:
            sample = of.sample(i)
            return Example(i, sample, of.shards.image(i) if sample.has_image else None)

        return [self._whole(step, role, n, load)[1] for n in range(start, start + count)]

    def _role(self, name: str) -> Role:
        if name not in self.roles:
            raise DataError(f"role {name}: not in the data, which has {', '.join(self.roles)}")
        return self.roles[name]

    def _whole(self, step: int, role: str, n: int, read: Callable[[int], _T]) -> tuple[int, _T]:
        """Return the sample at a position and what is read of it.

        A broken one is replaced by the one half an epoch later. The next in order would come twice
        in the same step.
        """
        of, order = self.roles[role], self._orders[role]
        stride = max(1, order.count // 2)
        for tried in range(_TRIES):
            i = of.number(order.index(n + tried * stride))
            try:
                return i, read(i)
            except BrokenSample as error:
                self.skipped[error.name] = error.reason
        raise DataError(
            f"step {step}: role {role} has {_TRIES} broken samples in a row, the last "
            f"{of.shards.name(i)}; check the data with janus-edge data check"
        )


def _seed(seed: int, role: str) -> int:
    """Return a role's seed, so that roles with equal counts do not run in step."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{role}".encode()).digest()[:8], "little")
