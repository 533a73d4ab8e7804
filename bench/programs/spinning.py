"""How long ONNX Runtime's threads should spin: engines in turn, side by side in one run.

    python bench/programs/spinning.py --record bench/records/spinning.jsonl [--rounds 3]

An image's loop runs decoder and head in turn, each an engine with threads of its own. Here up to
three engines of two decoder layers of Janus-Pro-1B's shape (int4 in blocks of 64, random weights)
take a step in turn. The result is in ms per step, the median of all rounds. Each setting's rounds
are processes of their own, in turn with the others'. A line is appended to the record.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnxruntime

from janus_edge.bench.programs import layers
from janus_edge.diagnostics.machine import describe
from janus_edge.diagnostics.records import append_record, program
from janus_edge.runtime.backends import onnxruntime as backend

SCHEMA = "spinning/1"
KIND = layers.KINDS["int4 in blocks of 64, fp32 cache"]
SETTINGS_US = ("", "100", "20", "0")  # the first: ONNX Runtime's own
STEPS = 60


def steps_ms(spin_us: str, num_threads: int) -> dict[int, list[float]]:
    """Return each step's time in ms, by number of engines in turn.

    To be run in a process of its own, as it changes settings of modules.

    Args:
        spin_us: How long threads spin, in microseconds; empty for ONNX Runtime's own setting.
        num_threads: Threads of each engine.
    """
    backend.SPIN_US, layers.KINDS = spin_us, {str(i): KIND for i in range(3)}
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        decoders = [make(2) for make in layers.decoders(Path(folder), num_threads).values()]
    for decoder in decoders:
        prompt = rng.standard_normal((2, 50, layers.LANGUAGE.hidden_size), np.float32)
        decoder.prefill(prompt, np.full(2, 50))
    found: dict[int, list[float]] = {}
    for count in (1, 2, 3):
        for _ in range(STEPS):
            for decoder in decoders[:count]:
                began = time.perf_counter()
                decoder.step(prompt[:, 0])
                found.setdefault(count, []).append((time.perf_counter() - began) * 1e3)
    return found


def main() -> None:
    """Parse the command line, measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    before = describe()
    spent: dict[str, dict[int, list[float]]] = {us: {1: [], 2: [], 3: []} for us in SETTINGS_US}
    for _ in range(options.rounds):
        for us, found in spent.items():
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                for count, ms in process.submit(steps_ms, us, options.threads).result().items():
                    found[count] += ms
    medians = {
        us or "default": {count: round(float(np.median(ms)), 3) for count, ms in found.items()}
        for us, found in spent.items()
    }
    for us, row in medians.items():
        print(f"{us:8}", *(f"{count} in turn {ms:7.3f} ms a step" for count, ms in row.items()))
    append_record(
        options.record,
        {
            **program(SCHEMA),
            **before,
            "onnxruntime": onnxruntime.__version__,
            "threads": options.threads,
            "ms_a_step_by_spin_us_and_engines": medians,
        },
    )


if __name__ == "__main__":
    main()
