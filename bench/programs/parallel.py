"""Exact parallel drawing: what passes cost and add, and how long an image takes by their width.

    python bench/programs/parallel.py SMALL LARGE --record bench/records/parallel.jsonl

SMALL is a trained bundle of codes, LARGE a bundle at full size with random weights; the CPU kernels
run both. SMALL draws at its own acceptance: passes of one position and other widths in turn, seed
after seed. Each image must have the codes of passes of one position.

How many drafts are right depends on the weights, and random ones say nothing. So LARGE accepts
as many codes a pass as SMALL did, drawn at random from its passes of the same width. It draws whole
images with all the work of such passes. "none right" accepts one code a pass, whatever was chosen.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from janus_edge.diagnostics.machine import describe
from janus_edge.diagnostics.records import append_record, program
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.decode import Drafts
from janus_edge.runtime.events import Finished, Image, Pass
from janus_edge.runtime.passes import WIDTHS, Known
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session

SCHEMA = "parallel/1"
PROMPTS = (
    "three red circles",
    "a blue square left of a yellow star",
    "a large green triangle",
    "two pink crosses on a black background",
    "an orange star and a purple circle",
    "five small yellow squares on a grey background",
    "a cyan cross above a red triangle",
    "a green circle below a pink star",
)
Accepted = dict[int, list[int]]  # codes that passes added, by their width


def draw(
    session: Session, prompt: str, seed: int, width: int | None, fast: bool = False
) -> tuple[np.ndarray, Finished]:
    """Draw an image; return its codes and what it took."""
    request = ImageRequest(prompt=prompt, seed=seed, parallel=width, fast=fast)
    *others, finished = session.generate_image(request)
    (image,) = (each for each in others if isinstance(each, Image))
    assert isinstance(finished, Finished) and image.codes is not None
    return image.codes, finished


def small(session: Session, seeds: int) -> tuple[dict[str, Any], Accepted]:
    """Return the times of widths that draw in turn, and what their passes added."""
    widths: tuple[int | None, ...] = (*WIDTHS, None)
    for width in widths:  # costs are known, and pages are there
        for seed in range(3):
            draw(session, PROMPTS[0], seed, width)
    done: dict[int | None, list[Finished]] = {width: [] for width in widths}
    for prompt in PROMPTS:
        for seed in range(seeds):
            codes = [draw(session, prompt, seed, width) for width in widths]
            assert all(np.array_equal(found, codes[0][0]) for found, _ in codes)
            for width, (_, finished) in zip(widths, codes, strict=True):
                done[width].append(finished)
    accepted: Accepted = defaultdict(list)
    for width in WIDTHS:  # the last passes of an image are cut, whatever was right
        for finished in done[width]:
            accepted[width] += [each.codes for each in finished.passes[:-1] if each.width == width]
    return {_name(width): _summary(each) for width, each in done.items()}, accepted


def _name(width: int | None) -> str:
    return "auto" if width is None else str(width)


def _summary(done: list[Finished]) -> dict[str, Any]:
    """Return medians over images, ms, and what passes add."""
    passes = [each for finished in done for each in finished.passes]
    return {
        "images": len(done),
        "decode_ms": _median([each.timings_ms["decode"] for each in done]),
        "image_ms": _median([each.timings_ms["total"] for each in done]),
        "passes": round(len(passes) / len(done), 2),
        "codes_a_pass": round(sum(each.codes for each in passes) / len(passes), 3),
        "pass_ms": {str(width): ms for width, ms in _costs(passes).items()},
    }


def _costs(passes: list[Pass]) -> dict[int, float]:
    by_width: dict[int, list[float]] = defaultdict(list)
    for each in passes:
        by_width[each.width].append(each.took_ms)
    return {width: _median(by_width[width]) for width in sorted(by_width)}


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 3)


@contextmanager
def accepting(accepted: Accepted) -> Iterator[None]:
    """Accept as many codes as these passes did, or one where there are none of a width."""
    rng, take = np.random.default_rng(0), Drafts.take

    def as_many(drafts: Drafts, chosen_BT: np.ndarray) -> np.ndarray:
        before, width = drafts.drawn_B.copy(), chosen_BT.shape[1]
        take(drafts, chosen_BT)
        counts = rng.choice(accepted.get(width, [1]), len(before))
        added_B = np.minimum(counts, drafts.num_codes - before)
        drafts.drawn_B[:] = before + added_B
        return added_B

    with patch.object(Drafts, "take", as_many):
        yield


def large(session: Session, accepted: Accepted, rounds: int) -> dict[str, Any]:
    """Return the times of widths that draw in turn at the acceptance of other passes."""
    cases: dict[str, tuple[int | None, Accepted]] = {
        **{_name(width): (width, accepted) for width in (*WIDTHS, None)},
        "auto, fast": (None, accepted),
        "auto, none right": (None, {}),
    }
    done: dict[str, list[Finished]] = {name: [] for name in cases}
    known: dict[str, dict[Path, Known]] = {name: {} for name in cases}  # each learns by itself
    for turn in range(rounds + 1):
        for name, (width, counts) in cases.items():
            memory = patch.object(session._engines, "known_passes", known[name])
            with accepting(counts), memory:
                _, finished = draw(session, PROMPTS[0], turn, width, name == "auto, fast")
            if turn:  # in the first round the costs are measured
                done[name].append(finished)
            print(turn, name, finished.timings_ms, flush=True)
    return {name: _summary(each) for name, each in done.items()}


def main() -> None:
    """Parse the command line, measure, print and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("small", type=Path)
    parser.add_argument("large", type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="images of each prompt")
    parser.add_argument("--rounds", type=int, default=2, help="images of each width at full size")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    before = describe()
    sessions = [
        Session(open_bundle(each), num_threads=options.threads)
        for each in (options.small, options.large)
    ]
    found, accepted = small(sessions[0], options.seeds)
    measures = {"small": found, "large": large(sessions[1], accepted, options.rounds)}
    for name, cases in measures.items():
        alone = cases["1"]["decode_ms"]
        for width, each in cases.items():
            print(name, width, f"{each['decode_ms'] / alone:.3f} of one by one", each)
    if options.record:
        names = {"bundles": [session.bundle.manifest.name for session in sessions]}
        append_record(options.record, {**program(SCHEMA), **before, **names, **measures})


if __name__ == "__main__":
    main()
