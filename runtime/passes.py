"""How many positions a pass computes: a fixed number, or what is fastest (docs/decoding.md).

Shape: B images.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass, field
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
MOST_TESTED = 8.0  # what tests of earlier requests count for at most
NEWS = 0.2  # change of the codes that the widest pass adds, in parts, that is written
TRIAL = 32  # of so many passes one tries the next larger width, ...
FIRST_TRIAL = 8  # ... this one first


@dataclass
class Known:
    """Holds what earlier requests told about passes.

    Attributes:
        samples: ms of passes, by their width.
        drafts: For each draft of the widest pass: right ones and tested ones, as weights.
        written: Codes that the widest pass adds by the drafts in the note.
    """

    samples: dict[int, list[float]]
    drafts: list[list[float]]
    written: float = field(init=False)

    def __post_init__(self) -> None:
        """Begin with what the note holds."""
        self.written = _codes(self.drafts)

    @classmethod
    def nothing(cls, widths: tuple[int, ...]) -> Known:
        """Return what holds before the first request."""
        return cls({width: [] for width in widths}, [list(PRIOR) for _ in range(widths[-1] - 1)])

    @property
    def num_samples(self) -> int:
        """Number of samples of all widths."""
        return sum(map(len, self.samples.values()))


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
    if note not in engines.known_passes:
        engines.known_passes[note] = known_passes(note)
    return Passes(WIDTHS, note, engines.known_passes[note])


def costs_note(bundle: str, instructions: str, num_threads: int, rows: int, head: str) -> Path:
    """Return the note that keeps what passes cost and how many drafts are right.

    The C++ loop has notes of its own: its passes of a small model cost a fraction of ours.

    Args:
        bundle: SHA-256 of the bundle's manifest.
        instructions: The instruction set of the CPU kernels.
        num_threads: Their threads.
        rows: Rows of the decoder.
        head: The component that makes logits.
    """
    key = f"python {bundle} {instructions} {num_threads} {rows} {head}"
    return home_folder() / "passes" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


class Passes:
    """Chooses the width of each pass and keeps what each took.

    Attributes:
        widths: The widths to choose from, ascending.
        done: The passes so far.
        is_alone: False while other work runs beside the passes: they then take longer than they
            cost.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        note: Path | None = None,
        known: Known | None = None,
    ) -> None:
        """Begin with what is known about passes.

        Args:
            widths: The widths to choose from, ascending.
            note: Keeps what is learned for later runs; None does not.
            known: What earlier requests told. Times of passes are added to it.
        """
        self.widths, self._note = widths, note
        self.done: list[Pass] = []
        self.is_alone = True
        self._known = known or Known.nothing(widths)
        self._samples, self._num_samples = self._known.samples, self._known.num_samples
        self._drafts = [list(each) for each in self._known.drafts]
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
        self.learn(accepted_B, (time.perf_counter() - self._began) * 1e3)

    def learn(self, accepted_B: np.ndarray, took_ms: float) -> None:
        """Learn from a pass that took so many ms.

        Args:
            accepted_B: How many codes it added to each image; 0 for one that was finished before.
            took_ms: Its time.
        """
        width = self._width
        samples = self._samples.get(width)
        is_first = all(each.width != width for each in self.done)  # it also binds arrays
        is_cost = self.is_alone and not is_first
        if samples is not None and len(samples) < ROUNDS and is_cost:
            samples.append(round(took_ms, 4))
        self.done.append(Pass(width=width, codes=int(accepted_B.sum()), took_ms=took_ms))
        for accepted in accepted_B.tolist():
            for draft in range(min(accepted, width - 1)):
                right, tested = self._drafts[draft]
                is_right = draft + 1 < accepted
                self._drafts[draft] = [MEMORY * right + is_right, MEMORY * tested + 1]

    def keep(self) -> None:
        """Keep what was learned for later requests; write the note if it is news."""
        if len(self.widths) == 1:
            return
        known, codes = self._known, _codes(self._drafts)
        known.drafts = [_lightened(*each) for each in self._drafts]
        is_news = abs(codes - known.written) > NEWS * known.written
        if self._note is not None and (is_news or known.num_samples > self._num_samples):
            samples = {str(width): ms for width, ms in self._samples.items()}
            write_note(self._note, {**samples, "drafts": known.drafts})
            known.written = codes

    def _choose(self, most: int) -> int:
        """Return a width, at most ``most`` if there is one."""
        fits = [width for width in self.widths if width <= most] or list(self.widths[:1])
        if len(self.widths) == 1:
            return fits[0]
        least = min(fits, key=lambda width: len(self._samples[width]))
        if len(self._samples[least]) < ROUNDS:  # each in turn, as a machine's speed changes
            return least if self.is_alone else fits[0]
        best = fits.index(max(fits, key=self._speed))
        is_trial = len(self.done) % TRIAL == FIRST_TRIAL - 1  # how often further drafts are right
        return fits[min(best + is_trial, len(fits) - 1)]

    def _speed(self, width: int) -> float:
        """Return the codes a millisecond that passes of a width may add to an image."""
        return _codes(self._drafts[: width - 1]) / sorted(self._samples[width])[ROUNDS // 2]


def known_passes(note: Path) -> Known:
    """Return what a note holds; of what it does not hold well, what holds without it."""
    found, nothing = read_note(note), Known.nothing(WIDTHS)
    samples = {width: _sound(found.get(str(width))) for width in WIDTHS}
    drafts = found.get("drafts")
    if isinstance(drafts, list) and len(drafts) == len(nothing.drafts) and all(map(_tests, drafts)):
        return Known(samples, drafts)
    return Known(samples, nothing.drafts)


def _sound(samples: object) -> list[float]:
    """Return samples as a note holds them, none if they are not some positive numbers."""
    if not isinstance(samples, list) or len(samples) > ROUNDS:
        return []
    if not all(type(ms) is float and 0 < ms < math.inf for ms in samples):
        return []
    return samples


def _tests(found: object) -> bool:
    """Return whether this is a draft's two weights: right ones of those tested."""
    if not isinstance(found, list) or len(found) != len(PRIOR):
        return False
    if not all(type(weight) is float for weight in found):
        return False
    right, tested = found
    return 0 <= right <= tested and PRIOR[1] <= tested <= MOST_TESTED


def _codes(drafts: list[list[float]]) -> float:
    """Return how many codes a pass with these drafts adds to an image on average."""
    codes, chance = 1.0, 1.0
    for right, tested in drafts:
        chance *= right / tested
        codes += chance
    return codes


def _lightened(right: float, tested: float) -> list[float]:
    """Return a draft's weights, the second at most MOST_TESTED, in four digits."""
    weight = min(1.0, MOST_TESTED / tested)
    return [round(weight * right, 4), round(weight * tested, 4)]
