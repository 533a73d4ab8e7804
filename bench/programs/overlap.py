"""Approximate drawing: what windows and a shorter guidance cost in quality, and what they save.

    python bench/programs/overlap.py SMALL LARGE --record bench/records/overlap.jsonl

SMALL is a trained bundle of codes in the world of shapes, LARGE a bundle at full size with random
weights. SMALL draws the evaluation's prompts with each setting, seed by seed. Its score is compared
with that of exact drawing, prompt by prompt: the difference has its standard error. LARGE draws
whole images with each setting in turn; time does not depend on the weights. Windows are parts of a
row, as rows have other lengths at full size.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from janus_edge.diagnostics.machine import describe
from janus_edge.diagnostics.records import append_record, program
from janus_edge.evals.scoring import draw
from janus_edge.evals.shapes import judge, prompts
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.events import Finished
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session

SCHEMA = "overlap/1"
RULE = "strict"
WINDOWS = (1.0, 0.875, 0.75, 0.5, 0.25)  # parts of a row
GUIDED = (1.0, 0.85, 0.5)
Setting = tuple[float, float]  # window and guided part


def settings_of(session: Session, setting: Setting) -> dict[str, Any]:
    """Return a setting by ImageRequest's names; exact drawing in passes of one position."""
    grid = session.bundle.manifest.sizes.code_grid  # type: ignore[union-attr]
    if setting == (1.0, 1.0):
        return {"parallel": 1}
    return {"window": max(1, round(setting[0] * grid)), "guidance_end": setting[1]}


def scores(session: Session, settings: list[Setting], count: int) -> dict[Setting, dict[str, Any]]:
    """Return each setting's share of right images, and how it differs from the first one's."""
    right: dict[Setting, list[bool]] = {setting: [] for setting in settings}
    passes: dict[Setting, int] = {}
    for index, (_, wanted) in enumerate(prompts("test", count)):
        for setting in settings:
            request = ImageRequest(prompt=wanted.text, seed=index, **settings_of(session, setting))
            right[setting].append(judge(draw(session, request).pixels, wanted)[RULE])
            passes.setdefault(setting, num_passes(session, request))
        if index % 50 == 49:
            print(
                index + 1,
                {each: round(float(np.mean(r)), 3) for each, r in right.items()},
                flush=True,
            )
    exact = np.array(right[settings[0]], float)
    found = {}
    for setting, each in right.items():
        differs = np.array(each, float) - exact
        found[setting] = {
            "passes": passes[setting],
            "right": round(float(np.mean(each)), 4),
            "difference": round(float(differs.mean()), 4),
            "standard_error": round(float(differs.std(ddof=1)) / math.sqrt(count), 4),
        }
    return found


def num_passes(session: Session, request: ImageRequest) -> int:
    """Return how many passes an image takes."""
    *_, finished = session.generate_image(request)
    assert isinstance(finished, Finished)
    return len(finished.passes)


def times(session: Session, settings: list[Setting], rounds: int) -> dict[Setting, dict[str, Any]]:
    """Return the median time of an image with each setting, ms; they take turns."""
    spent: dict[Setting, list[Finished]] = {setting: [] for setting in settings}
    for turn in range(rounds + 1):
        for setting in settings:
            request = ImageRequest(
                prompt="a red circle", seed=turn, **settings_of(session, setting)
            )
            *_, finished = session.generate_image(request)
            assert isinstance(finished, Finished)
            print(turn, setting, len(finished.passes), finished.timings_ms, flush=True)
            if turn:
                spent[setting].append(finished)
    return {
        setting: {
            "passes": len(each[0].passes),
            "image_ms": round(statistics.median(run.timings_ms["total"] for run in each), 1),
        }
        for setting, each in spent.items()
    }


def main() -> None:
    """Parse the command line, measure, print and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("small", type=Path)
    parser.add_argument("large", type=Path)
    parser.add_argument("--prompts", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=1, help="images of each setting at full size")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    before = describe()
    small, large = (
        Session(open_bundle(each), num_threads=options.threads)
        for each in (options.small, options.large)
    )
    scored = scores(small, [(w, g) for w in WINDOWS for g in GUIDED], options.prompts)
    timed = times(large, [(w, g) for w in WINDOWS for g in (1.0, 0.5)], options.rounds)
    exact = timed[1.0, 1.0]["image_ms"]
    rows = [
        {"window": window, "guided": guided, **each, "large": timed.get((window, guided))}
        for (window, guided), each in scored.items()
    ]
    for row in rows:
        share = f"{row['large']['image_ms'] / exact:.3f} of exact" if row["large"] else ""
        print(row, share)
    if options.record:
        names = {"bundles": [each.bundle.manifest.name for each in (small, large)], "rule": RULE}
        append_record(options.record, {**program(SCHEMA), **before, **names, "rows": rows})


if __name__ == "__main__":
    main()
