r"""Step time of the CPU kernels' decoder beside busy processes: threads and builds in turn.

    python bench/programs/busy.py [FOLDER...] [--library OLD.so --library NEW.so] [--threads 2 1] \
        [--neighbours 0 1 2] [--rounds 12] [--steps 16] [--record bench/records/busy.jsonl]

FOLDER is a bundle, or a checkpoint that is exported in int4 first (the default: tiny-janus). A
neighbour is a process that spins and competes for a core; this program starts and stops it.

Each library with each number of threads is a decoder of two rows with threads of its own. They take
turns of ``--steps`` steps after a short prompt, so that a drift of the machine affects all; the
first turns are left out. Results are in ms per step: mean and percentiles of all steps, and as
"turns" the median of the turns' means, which a single disturbance does not change. The record gets
a line per folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from janus_edge.diagnostics.machine import describe
from janus_edge.diagnostics.records import append_record, program, to_line
from janus_edge.export.bundle.writer import export_folder
from janus_edge.runtime.backends import cpu_library
from janus_edge.runtime.backends.cpu_decoder import CpuDecoder
from janus_edge.runtime.backends.cpu_library import Pool
from janus_edge.runtime.bundle import MANIFEST, Bundle, open_bundle
from janus_edge.runtime.cached_decoder import CachedDecoder

SCHEMA = "busy/1"
TINY = Path(__file__).resolve().parents[2] / "checkpoints/tiny-janus"
ROWS, PROMPT = 2, 20
SPIN = "while True: pass"


def decoder_of(
    bundle: Bundle, length: int, library: Path | None, num_threads: int
) -> CachedDecoder:
    """Return a decoder with two rows.

    Args:
        bundle: The bundle.
        length: Length of the KV caches.
        library: Another library than the package's; None for that.
        num_threads: Threads of the decoder.
    """
    found = cpu_library.open_library(library) if library else cpu_library.library()
    if found is None:
        sys.exit(f"busy: {library or 'the package'}: no decoder library that runs here")
    manifest = bundle.manifest
    engine: Any = CpuDecoder(
        bundle.folder, manifest.components["decoder"], manifest.sizes, Pool(num_threads, found)
    )
    return CachedDecoder(engine, manifest.sizes, ROWS, length, manifest.cache_type)


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Run ``count`` busy processes inside the block."""
    busy = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        time.sleep(0.5 if busy else 0)  # until they have started
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def turn(decoder: CachedDecoder, width: int, steps: int) -> list[float]:
    """Start over with a prompt; return each step's time in ms."""
    prompt_RTD = np.random.default_rng(0).standard_normal((ROWS, PROMPT, width), np.float32)
    decoder.clear()
    decoder.prefill(prompt_RTD, np.full(ROWS, PROMPT))
    found = []
    for _ in range(steps):
        began = time.perf_counter()
        decoder.step(prompt_RTD[:, 0])
        found.append((time.perf_counter() - began) * 1e3)
    return found


def measure(folder: Path, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the step times by number of neighbours, then by library and threads."""
    bundle, length = open_bundle(str(folder)), PROMPT + options.steps
    width = bundle.manifest.sizes.hidden_size
    decoders = {
        f"{library.stem if library else 'package'}, threads: {threads}": decoder_of(
            bundle, length, library, threads
        )
        for threads in options.threads
        for library in options.library or [None]
    }
    found: dict[str, dict[str, Any]] = {}
    for count in options.neighbours:
        turns: dict[str, list[list[float]]] = {name: [] for name in decoders}
        with neighbours(count):
            for index in range(options.rounds + 1):
                for name in list(decoders)[:: 1 if index % 2 else -1]:
                    took = turn(decoders[name], width, options.steps)
                    turns[name] += [took] if index else []
        found[f"busy: {count}"] = rows = {name: summary(each) for name, each in turns.items()}
        for name, row in rows.items():
            numbers = (f"{key} {ms:8.3f}" for key, ms in row.items())
            print(f"busy: {count}, {name:32}", *numbers, flush=True)
    return found


def summary(rounds: list[list[float]]) -> dict[str, float]:
    """Return ms per step: mean, percentiles and the median of the rounds' means."""
    p20, p50, p80 = np.percentile(rounds, (20, 50, 80))
    turns = np.median(np.mean(rounds, axis=1))
    found = {"mean": np.mean(rounds), "turns": turns, "p20": p20, "p50": p50, "p80": p80}
    return {key: round(float(ms), 4) for key, ms in found.items()}


def main() -> None:
    """Parse the command line, measure, print and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*", default=[TINY])
    parser.add_argument("--library", type=Path, action="append", help="default: the package's")
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=16, help="of a decoder before the next's turn")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    for folder in options.folders:
        before = describe()
        with tempfile.TemporaryDirectory() as made:
            bundle = folder if (folder / MANIFEST).exists() else Path(made) / "int4"
            if bundle != folder:
                export_folder(folder, bundle, quantize="int4", report=lambda line: None)
            result = {
                **program(SCHEMA),
                **before,
                "folder": folder.name,
                "rounds": options.rounds,
                "steps": options.steps,
                "ms_per_step": measure(bundle, options),
            }
        if options.record is not None:
            append_record(options.record, result)
        print(to_line(result))


if __name__ == "__main__":
    main()
