"""Measure what previews cost: the time of an image with and without them, in turn.

    python bench/programs/previews.py BUNDLE... --record bench/records/previews.jsonl

Each bundle has a preview decoder; "linear" is the linear map of the same bundle. A share is the
time of all previews of an image over the time of an image without any.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from janus_edge.diagnostics.machine import describe
from janus_edge.diagnostics.records import append_record, program
from janus_edge.runtime.bundle import Bundle, open_bundle
from janus_edge.runtime.manifest import PREVIEW_DECODER
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session

SCHEMA = "previews/1"
PROMPT = "a red circle and a blue star"
KINDS = ("none", "linear", "sharp")


def session_of(bundle: Bundle, kind: str) -> Session:
    """Return a session with these previews."""
    if kind == "linear":
        del bundle.manifest.components[PREVIEW_DECODER]
    return Session(bundle)


def drawn_ms(session: Session, kind: str, seed: int) -> tuple[float, float]:
    """Return the time of an image, and of its preview decoder, ms."""
    before = session.component_ms.get(PREVIEW_DECODER, 0.0)
    request = ImageRequest(prompt=PROMPT, seed=seed, previews=kind != "none")
    began = time.perf_counter()
    for _ in session.generate_image(request):
        pass
    spent = (time.perf_counter() - began) * 1000
    return spent, session.component_ms.get(PREVIEW_DECODER, 0.0) - before


def measure(folder: str, rounds: int) -> dict[str, float]:
    """Return medians of a bundle, ms, and the preview decoder's share."""
    sessions = {kind: session_of(open_bundle(folder), kind) for kind in KINDS}
    for kind, session in sessions.items():
        drawn_ms(session, kind, 0)  # opens the engines
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for seed in range(1, rounds + 1):
        for kind, session in sessions.items():
            found[kind].append(drawn_ms(session, kind, seed))
    medians = {kind: statistics.median(ms for ms, _ in each) for kind, each in found.items()}
    previews = statistics.median(spent for _, spent in found["sharp"])
    made = {**medians, "preview_decoder": previews, "share": previews / medians["none"]}
    return {name: round(value, 4) for name, value in made.items()}


def main() -> None:
    """Parse the command line, measure, print and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    before = describe()
    for folder in options.bundles:
        found = measure(folder, options.rounds)
        print(folder, found, flush=True)
        if options.record:
            name = open_bundle(folder).manifest.name
            line = {**program(SCHEMA), **before, "bundle": name, "ms": found}
            append_record(options.record, line)


if __name__ == "__main__":
    main()
