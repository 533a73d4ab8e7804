r"""What the C API costs beside Python: library, opening, first code, pictures, memory.

    python bench/native.py LIBRARY BUNDLE... [--starts 5] [--pictures 4] \
        [--record FILE]

LIBRARY is a built libjanus_edge (scripts/build-native, docs/native.md). A round starts a process of
each, which opens the bundle and draws a picture; then both draw more in turn, ABBA, so that a
machine that drifts drifts for both. Several rounds, as each process has its own luck with memory.
Both use the ONNX Runtime library of Python's package. Values are medians over the rounds; the last
line of each bundle is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
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
    open_ms = (time.perf_counter() - began) * 1e3
    for _ in sys.stdin:
        found: dict[str, float] = {}
        for event in session.generate_image(ImageRequest(prompt="a red circle")):
            if isinstance(event, Progress) and not found:
                found["first_ms"] = event.elapsed_ms
                print("first", flush=True)
            if isinstance(event, Finished):
                found["picture_ms"] = event.timings_ms["total"]
        print(json.dumps(found), flush=True)
    print(json.dumps({"open_ms": open_ms, "peak_kb": peak_memory_bytes() / 1024}))


class Side:
    """One of the two programs, running."""

    def __init__(self, command: list[str]) -> None:
        self._began = time.perf_counter()
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def draw(self) -> dict[str, float]:
        """A picture's times, and ``started_ms``: from the process's start to this first code."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("draw\n")
        process.stdin.flush()
        if process.stdout.readline() != "first\n":
            sys.exit("native: a program failed")
        started_ms = (time.perf_counter() - self._began) * 1e3
        found: dict[str, float] = json.loads(process.stdout.readline())
        return found | {"started_ms": started_ms}

    def close(self) -> dict[str, float]:
        """What opening took, and the most memory held."""
        out, _ = self._process.communicate()
        found: dict[str, float] = json.loads(out)
        return found


def measure(commands: dict[str, list[str]], starts: int, pictures: int) -> dict[str, Any]:
    """Medians of each, and C's over Python's."""
    kept: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    drawn: dict[str, list[float]] = {name: [] for name in commands}
    for index in range(starts + 1):
        sides, first = {}, {}
        for name in _order(commands, index):
            sides[name] = Side(commands[name])
            first[name] = sides[name].draw()
        for turn in range(pictures):
            for name in _order(commands, index + turn):
                took = sides[name].draw()["picture_ms"]
                if index:  # the first round warms the file cache
                    drawn[name].append(took)
        for name, side in sides.items():
            found = first[name] | side.close()
            if index:
                kept[name].append(found)
        print(f"start {index} of {starts}", file=sys.stderr, flush=True)
    medians = {
        name: {key: round(statistics.median(run[key] for run in rows), 1) for key in rows[0]}
        | {"warm_picture_ms": round(statistics.median(drawn[name]), 1)}
        for name, rows in kept.items()
    }
    pairs = zip(drawn["c_api"], drawn["python_api"], strict=True)
    c, python = medians["c_api"], medians["python_api"]
    return medians | {
        "c_over_python": {
            **{key: round(c[key] / python[key], 3) for key in c},
            "warm_picture_by_pairs": round(statistics.median(a / b for a, b in pairs), 3),
        }
    }


def _order(names: Iterable[str], turn: int) -> list[str]:
    return list(names) if turn % 2 else list(reversed(list(names)))


def main() -> None:
    """Build the program, measure, print, record."""
    if sys.argv[1:2] == [WORKER]:
        return run_python(sys.argv[2], int(sys.argv[3]))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    library, threads = options.library.resolve(), str(options.threads)
    (ort,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    with tempfile.TemporaryDirectory() as folder:
        program, source = Path(folder) / "native", ROOT / "bench/native.c"
        words = [f"-I{ROOT / 'native/include'}", library, f"-Wl,-rpath,{library.parent}"]
        subprocess.run(["gcc", "-O2", source, *words, "-o", program], check=True)
        for name in options.bundles:
            before, bundle = describe(), str(find_bundle(name).resolve())
            commands = {
                "c_api": [str(program), bundle, str(ort), threads],
                "python_api": [sys.executable, __file__, WORKER, bundle, threads],
            }
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
                "starts": options.starts,
                "pictures": options.pictures,
                "library_bytes": library.stat().st_size,
                "onnxruntime_bytes": ort.stat().st_size,
                **measure(commands, options.starts, options.pictures),
            }
            if options.record is not None:
                append_record(options.record, result)
            print(to_line(result))


if __name__ == "__main__":
    main()
