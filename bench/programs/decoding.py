"""Decoding an image beside the passes of others: how much of its time is hidden, and who waits.

    python bench/programs/decoding.py BUNDLE --record bench/records/decoding.jsonl

While an image or eight are drawn, or a question is answered, codes of another image are decoded
between passes and beside them, in turn. Taken is the time until they are decoded and so many codes
or tokens are there. The hidden part is the difference, in parts of the time of a decode with all
threads. The longest pass is what the other one's reader waits for. Pixels must be equal. Time does
not depend on the weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from janus_edge.diagnostics.machine import describe
from janus_edge.diagnostics.records import append_record, program
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.decoding import Decoding
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.sequences import Answer, Sequence
from janus_edge.runtime.session import Session
from janus_edge.runtime.sizes import CodeSizes

SCHEMA = "decoding/1"
WAYS = ("between passes", "beside passes", "beside passes", "between passes")  # in this order
PARTS = len(WAYS) + 2  # of an image's codes or an answer's tokens; one is drawn before, one is left
Times = dict[str, float]


def num_done(sequence: Sequence, total: int) -> int:
    """Return how many codes or tokens there are."""
    return sequence.num_tokens if isinstance(sequence, Answer) else total - sequence.most


def measure(session: Session, sequences: list[Sequence], total: int) -> list[Times]:
    """Return the times of each way, ms.

    Args:
        session: An open session.
        sequences: What is computed, not begun.
        total: Codes or tokens of each.
    """
    engines, sizes = session._engines, session.bundle.manifest.sizes
    assert isinstance(sizes, CodeSizes)
    codes_N = np.random.default_rng(0).integers(0, sizes.codebook_size, sizes.num_codes)
    beside, flight, first = engines.beside, session.in_flight(), sequences[0]
    assert beside is not None, "give more threads"
    for each in sequences:
        flight.join(each)
    while num_done(first, total) < total // PARTS:
        flight.step()
    times, pixels = [], []
    for number, way in enumerate(WAYS, 2):
        engines.beside = beside if way == WAYS[1] else None
        decoding: Decoding[str] = Decoding(engines)
        decoding.add(way, codes_N)
        found, longest, began = None, 0.0, time.perf_counter()
        while found is None or num_done(first, total) < number * total // PARTS:
            start = time.perf_counter()
            assert flight.sequences, "the answer was too short"
            found = decoding.take(passes_follow=True) or found
            flight.step()
            longest = max(longest, time.perf_counter() - start)
        whole = time.perf_counter() - began
        assert not isinstance(found[1], Exception), found[1]
        image, took_ms = found[1]
        times.append({"whole": whole * 1e3, "decode": took_ms, "longest pass": longest * 1e3})
        pixels.append(image)
    engines.beside = beside
    for each in sequences:
        flight.leave(each)
    assert all(np.array_equal(each, pixels[0]) for each in pixels), "other pixels"
    return times


def summary(rounds: list[list[Times]]) -> dict[str, Any]:
    """Return medians of both ways, ms, and the hidden part of each round."""
    of: dict[str, list[Times]] = {}
    for each in rounds:
        for way, times in zip(WAYS, each, strict=True):
            of.setdefault(way, []).append(times)
    medians = {
        way: {key: round(statistics.median(e[key] for e in all_), 2) for key in all_[0]}
        for way, all_ in of.items()
    }
    decode = medians[WAYS[0]]["decode"]
    saved = [a["whole"] + d["whole"] - b["whole"] - c["whole"] for a, b, c, d in rounds]
    hidden = [round(each / 2 / decode, 3) for each in saved]
    return {"ms": medians, "hidden": statistics.median(hidden), "hidden, each": hidden}


def main() -> None:
    """Parse the command line, measure, print and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=480)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    before = describe()
    session = Session(open_bundle(options.bundle), num_threads=options.threads)
    sizes, tokens = session.bundle.manifest.sizes, options.tokens
    assert isinstance(sizes, CodeSizes)
    drawing = [ImageRequest(prompt="a red circle", seed=seed) for seed in range(8)]
    question = AskRequest(question="what is it?", max_tokens=tokens, temperature=1.0, seed=1)
    cases: dict[str, tuple[list[Any], int]] = {
        "drawing": (drawing[:1], sizes.num_codes),
        "answering": ([question], tokens),
        "drawing eight": (drawing, sizes.num_codes),
    }
    found: dict[str, Any] = {}
    for name, (requests, total) in cases.items():
        rounds: list[list[Times]] = []
        for number in range(options.rounds + 1):
            sequences = [session.sequences(each)[0] for each in requests]
            times = measure(session, sequences, total)
            rounds += [times] if number else []  # the first round opens components
        found[name] = summary(rounds)
        print(name, found[name], flush=True)
    if options.record:
        about = {"bundle": options.bundle.name, "threads": options.threads}
        append_record(options.record, {**program(SCHEMA), **before, **about, **found})


if __name__ == "__main__":
    main()
