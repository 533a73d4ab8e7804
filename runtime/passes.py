"""How many positions a pass computes: a fixed number, or what is fastest (docs/decoding.md).

Shape: B images.
"""

from __future__ import annotations

import hashlib
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from janus_edge.runtime.backends import cpu_library
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.events import Pass
from janus_edge.runtime.notes import home_folder, read_note, write_note

if TYPE_CHECKING:
    from janus_edge.runtime.engines import Engines

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16)  # what is chosen from
MOST_WIDTH = 64  # what may be asked for
ROUNDS = 3  # passes of each width whose median is its cost
MEMORY = 0.98  # what each test of a draft leaves of the weight of those before it
PRIOR = (2.0, 4.0)  # drafts that were right, and that were tested, before the first pass
TRIAL = 32  # of so many passes one tries the next larger width

Samples = dict[int, list[float]]  # ms of passes, by their width


def check_positions(engines: Engines, name: str, value: int, positions: int) -> None:
    """Raise OptionError if the decoder does not compute so many positions at once.

    Args:
        engines: The bundle's engines.
        name: The setting that asks for them.
        value: Its value.
        positions: How many.
    """
    if positions <= 1:
        return
    most = engines.bundle.manifest.components["decoder"].profile["T"][2]
    if positions > most:
        raise OptionError(f"{name} is {value}; this bundle's decoder takes at most {most} at once")
    if engines.decoder_is_for_cpu and engines.device.kind != "cpu":
        raise OptionError(
            f"{name} is {value}: on {engines.device} this needs a bundle exported with "
            "--lowering portable; leave it out"
        )


def passes_for(engines: Engines, rows: int, head: str, parallel: int | None) -> Passes:
    """Return how many positions a pass computes: so many, or with None what is fastest.

    Where sums depend on how many positions are computed together, the clock must not choose: passes
    then have one position.

    Args:
        engines: The bundle's engines.
        rows: Rows of the decoder.
        head: The component that makes logits.
        parallel: How many positions; None for what is fastest.
    """
    if parallel is not None or not engines.uses_cpu_kernels:
        return Passes((parallel or 1,))
    kernels = cpu_library.instructions() or ""
    note = costs_note(engines.bundle.sha256, kernels, engines.num_threads, rows, head)
    if note not in engines.pass_samples:
        engines.pass_samples[note] = known_samples(note)
    return Passes(WIDTHS, note, engines.pass_samples[note])


def costs_note(bundle: str, instructions: str, num_threads: int, rows: int, head: str) -> Path:
    """Return the note that keeps the costs of passes.

    Args:
        bundle: SHA-256 of the bundle's manifest.
        instructions: The instruction set of the CPU kernels.
        num_threads: Their threads.
        rows: Rows of the decoder.
        head: The component that makes logits.
    """
    key = f"{bundle} {instructions} {num_threads} {rows} {head}"
    return home_folder() / "passes" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


class Passes:
    """Chooses the width of each pass and keeps what each took.

    Attributes:
        widths: The widths to choose from, ascending.
        done: The passes so far.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        note: Path | None = None,
        samples: Samples | None = None,
    ) -> None:
        """Begin with what passes cost, as far as it is known.

        Args:
            widths: The widths to choose from, ascending.
            note: Keeps the costs for later runs; None does not.
            samples: Times of passes that were measured before; later ones are added.
        """
        self.widths, self._note = widths, note
        self.done: list[Pass] = []
        self._samples = {width: list[float]() for width in widths} if samples is None else samples
        self._num_known = sum(map(len, self._samples.values()))
        self._right, self._tested = ([each] * self.widest for each in PRIOR)  # by draft
        self._width, self._began = 0, 0.0

    @property
    def widest(self) -> int:
        """The largest width."""
        return self.widths[-1]

    def begin(self, most: int) -> int:
        """Return how many positions the next pass computes, at most ``most``; start its clock."""
        self._width = min(self._choose(most), most)
        self._began = time.perf_counter()
        return self._width

    def end(self, accepted_B: np.ndarray) -> None:
        """Stop the clock and learn from a pass.

        Args:
            accepted_B: How many codes it added to each image; 0 for one that was finished before.
        """
        took_ms = (time.perf_counter() - self._began) * 1e3
        width = self._width
        samples = self._samples.get(width)
        is_first = all(each.width != width for each in self.done)  # it also binds arrays
        if samples is not None and len(samples) < ROUNDS and not is_first:
            samples.append(round(took_ms, 4))
        self.done.append(Pass(width=width, codes=int(accepted_B.sum()), took_ms=took_ms))
        for accepted in accepted_B.tolist():
            for draft in range(min(accepted, width - 1)):
                self._tested[draft] = MEMORY * self._tested[draft] + 1
                self._right[draft] = MEMORY * self._right[draft] + (draft + 1 < accepted)

    def keep(self) -> None:
        """Write what was learned about costs."""
        if self._note is not None and sum(map(len, self._samples.values())) > self._num_known:
            write_note(self._note, {str(width): ms for width, ms in self._samples.items()})

    def _choose(self, most: int) -> int:
        """Return a width, at most ``most`` if there is one."""
        fits = [width for width in self.widths if width <= most] or list(self.widths[:1])
        if len(self.widths) == 1:
            return fits[0]
        least = min(fits, key=lambda width: len(self._samples[width]))
        if len(self._samples[least]) < ROUNDS:  # each in turn, as a machine's speed changes
            return least
        best = fits.index(max(fits, key=self._speed))
        is_trial = len(self.done) % TRIAL == TRIAL - 1  # how often further drafts are right
        return fits[min(best + is_trial, len(fits) - 1)]

    def _speed(self, width: int) -> float:
        """Return the codes a millisecond that passes of a width may add to an image."""
        codes, chance = 1.0, 1.0
        for draft in range(width - 1):
            chance *= self._right[draft] / self._tested[draft]
            codes += chance
        return codes / sorted(self._samples[width])[ROUNDS // 2]


def known_samples(note: Path) -> Samples:
    """Return the samples in a note; none of a width that it does not hold well."""
    found = read_note(note)
    return {width: _sound(found.get(str(width))) for width in WIDTHS}


def _sound(samples: object) -> list[float]:
    """Return samples as a note holds them, none if they are not some positive numbers."""
    if not isinstance(samples, list) or len(samples) > ROUNDS:
        return []
    if not all(type(ms) is float and 0 < ms < math.inf for ms in samples):
        return []
    return samples
