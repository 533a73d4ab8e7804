"""What the C API costs beside Python: library, opening, first code, pictures, memory.

    python bench/native.py LIBRARY BUNDLE... [--threads 2] [--runs 5] [--record FILE]

LIBRARY is a built libjanus_edge (scripts/build-native, docs/native.md). Each run is a process of its
own that opens the bundle and draws two pictures, the C program and Python in turn, both with the
ONNX Runtime library of Python's package; the first round does not count. Times are medians. The
last line of each bundle is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnxruntime

from janus_edge.bench.machine import describe, peak_memory_bytes
from janus_edge.evals.records import append_record, checkout_commit, to_line
from janus_edge.runtime.bundle import find_bundle, open_bundle
from janus_edge.runtime.events import Finished, Progress
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session

ROOT = Path(__file__).resolve().parent.parent
WORKER = "--worker"


def run_python(bundle: str, threads: int) -> None:
    """What bench/native.c does."""
    began = time.perf_counter()
    session = Session(open_bundle(bundle), num_threads=threads)
    found: dict[str, float] = {"open_ms": (time.perf_counter() - began) * 1e3}
    for name in ("picture_ms", "warm_picture_ms"):
        for event in session.generate_image(ImageRequest(prompt="a red circle")):
            if isinstance(event, Progress) and "first_ms" not in found:
                found["first_ms"] = event.elapsed_ms
                print("first", flush=True)
            if isinstance(event, Finished):
                found[name] = event.timings_ms["total"]
    found["peak_kb"] = peak_memory_bytes() / 1024
    print(json.dumps(found))


def timed(command: list[str]) -> dict[str, float]:
    """A run's numbers, with ``started_ms``: from the process's start to the first code."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "first\n":
            sys.exit(f"native: {command[0]} failed")
        started_ms = (time.perf_counter() - began) * 1e3
        found: dict[str, float] = json.loads(process.stdout.read())
    return found | {"started_ms": started_ms}


def measure(bundle: Path, library: Path, program: Path, threads: int, runs: int) -> dict[str, Any]:
    """Medians of both, and Python's over C's."""
    (ort,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    words = [str(bundle), str(threads)]
    commands = {
        "c_api": [str(program), str(bundle), str(ort), str(threads)],
        "python_api": [sys.executable, __file__, WORKER, *words],
    }
    kept: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for index in range(runs + 1):
        for name, command in commands.items():
            found = timed(command)
            if index:
                kept[name].append(found)
        print(f"{bundle.name}: round {index + 1} of {runs + 1}", file=sys.stderr, flush=True)
    medians = {
        name: {key: round(statistics.median(run[key] for run in rows), 1) for key in rows[0]}
        for name, rows in kept.items()
    }
    ratios = [
        c["warm_picture_ms"] / p["warm_picture_ms"] for c, p in zip(*kept.values(), strict=True)
    ]
    return {
        "library_bytes": library.stat().st_size,
        "onnxruntime_bytes": ort.stat().st_size,
        **medians,
        "c_over_python": {
            **{
                key: round(medians["c_api"][key] / medians["python_api"][key], 3)
                for key in medians["c_api"]
            },
            "warm_picture_by_pairs": round(statistics.median(ratios), 3),
        },
    }


def main() -> None:
    """Build the program, measure, print, record."""
    if sys.argv[1:2] == [WORKER]:
        return run_python(sys.argv[2], int(sys.argv[3]))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    library = options.library.resolve()
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "native"
        source, include = ROOT / "bench/native.c", ROOT / "native/include"
        link = [str(library), f"-Wl,-rpath,{library.parent}"]
        subprocess.run(["gcc", "-O2", source, f"-I{include}", *link, "-o", program], check=True)
        for name in options.bundles:
            before = describe()
            result = {
                "schema": "native/1",
                "command": f"python bench/native.py {' '.join(sys.argv[1:])}",
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "commit": checkout_commit(),
                "onnxruntime": onnxruntime.__version__,
                **before,
                "bundle": name,
                "threads": options.threads,
                "warmup_runs": 1,
                "runs": options.runs,
                **measure(
                    find_bundle(name).resolve(), library, program, options.threads, options.runs
                ),
            }
            if options.record is not None:
                append_record(options.record, result)
            print(to_line(result))


if __name__ == "__main__":
    main()
