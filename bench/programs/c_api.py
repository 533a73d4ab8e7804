r"""Cost of the C API beside Python: library, opening, first code, images, memory.

    python bench/programs/c_api.py LIBRARY BUNDLE... [--starts 5] [--images 2] [--auto] \
        [--record FILE]

LIBRARY is a built libjanus_edge (scripts/build-native, docs/c-api.md). A round starts a process of
each kind, which opens the bundle and draws an image. Then both draw more, in turns of CHUNK codes
or steps, as the memory bandwidth drifts within seconds here. There are several rounds, as speed
differs from process to process. Passes have one position; with --auto both programs also draw by
passes of the widths that they choose (docs/decoding.md). Both use the ONNX Runtime library of
Python's package. Values are medians over the rounds; the last line of each bundle is one JSON
document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnxruntime

from janus_edge.diagnostics.machine import describe, peak_memory_bytes
from janus_edge.diagnostics.records import append_record, checkout_commit, to_line
from janus_edge.runtime.bundle import find_bundle, open_bundle
from janus_edge.runtime.errors import JanusEdgeError
from janus_edge.runtime.events import Event, Finished, Progress
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session

ROOT = Path(__file__).resolve().parents[2]
WORKER = "--worker"
AUTO = "_auto"  # of a program that chooses the widths of passes


def run_python(bundle: str, threads: int, parallel: int | None) -> None:
    """Do what bench/programs/c_api.c does."""
    began = time.perf_counter()
    session = Session(open_bundle(bundle), num_threads=threads)
    open_ms = (time.perf_counter() - began) * 1e3
    events: Iterator[Event] | None = None
    first_ms: float | None = None
    for line in sys.stdin:
        count, done, is_finished, began = int(line), 0, False, time.perf_counter()
        if events is None:
            events = session.generate_image(ImageRequest(prompt="a red circle", parallel=parallel))
        for event in events:
            if isinstance(event, Finished):
                events, is_finished = None, True
            if not isinstance(event, Progress):
                continue
            if first_ms is None:
                first_ms = event.elapsed_ms
                print("first", flush=True)
            done += 1
            if done == count:
                break
        ms = (time.perf_counter() - began) * 1e3
        found = {"ms": ms, "first_ms": first_ms, "is_finished": is_finished}
        print(json.dumps(found), flush=True)
    print(json.dumps({"open_ms": open_ms, "peak_kb": peak_memory_bytes() / 1024}))


class Side:
    """One of the two programs, running."""

    def __init__(self, command: list[str]) -> None:
        """Start the program and draw an image; keep its times, and the time to its first code."""
        began, pipe = time.perf_counter(), subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="utf-8")
        self._send(0)
        if self._line() != "first\n":
            sys.exit("native: a program failed")
        started_ms = (time.perf_counter() - began) * 1e3
        found = json.loads(self._line())
        self.start = {"first_ms": found["first_ms"], "image_ms": found["ms"]}
        self.start["started_ms"] = started_ms

    def go_on(self, chunk: int) -> tuple[float, bool]:
        """Draw ``chunk`` more codes; return the time in ms, and whether an image is finished."""
        self._send(chunk)
        found = json.loads(self._line())
        return found["ms"], bool(found["is_finished"])

    def close(self) -> dict[str, float]:
        """End the program; return its times, with the time to open and its peak memory."""
        out, _ = self._process.communicate()
        found: dict[str, float] = json.loads(out)
        return self.start | found

    def _send(self, number: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def measure(commands: dict[str, list[str]], options: argparse.Namespace) -> dict[str, Any]:
    """Return the medians of each program, and C's over Python's."""
    kept: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    drawn: dict[str, list[float]] = {name: [] for name in commands}
    for index in range(options.starts + 1):
        sides = {name: Side(commands[name]) for name in _order(commands, index)}
        for _ in range(options.images):
            took = _in_turn(sides, options.chunk)
            if index:  # the first round warms the file cache
                for name, ms in took.items():
                    drawn[name].append(ms)
        for name, side in sides.items():
            found = side.close()
            if index:
                kept[name].append(found)
        print(f"start {index} of {options.starts}", file=sys.stderr, flush=True)
    medians = {
        name: {key: round(statistics.median(run[key] for run in rows), 1) for key in rows[0]}
        | {"warm_image_ms": round(statistics.median(drawn[name]), 1)}
        for name, rows in kept.items()
    }
    c, python = medians["c_api"], medians["python_api"]
    return medians | {
        "c_over_python": {
            **{key: round(c[key] / python[key], 3) for key in c},
            "warm_image_by_pairs": _by_pairs(drawn["c_api"], drawn["python_api"]),
        },
        "auto_over_one": {
            name: _by_pairs(drawn[name + AUTO], drawn[name])
            for name in ("c_api", "python_api")
            if name + AUTO in drawn
        },
    }


def _by_pairs(numerators: list[float], denominators: list[float]) -> float:
    pairs = zip(numerators, denominators, strict=True)
    return round(statistics.median(a / b for a, b in pairs), 3)


def _in_turn(sides: dict[str, Side], chunk: int) -> dict[str, float]:
    """Draw an image with each program, in turns of ``chunk`` codes; return the times in ms."""
    total, is_finished, turn = dict.fromkeys(sides, 0.0), False, 0
    while not is_finished:
        for name in _order(sides, turn):
            ms, is_finished = sides[name].go_on(chunk)
            total[name] += ms
        turn += 1
    return total


def _order(names: Iterable[str], turn: int) -> list[str]:
    """Return the names in the order of a turn: forwards and backwards alternate."""
    return list(names) if turn % 2 else list(reversed(list(names)))


def _options() -> tuple[argparse.Namespace, dict[str, str]]:
    """Return the parsed command line, and the folder of each bundle by name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--chunk", type=int, default=8, help="codes or steps a turn")
    parser.add_argument("--auto", action="store_true", help="also passes of chosen widths")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    try:
        bundles = {name: str(find_bundle(name).resolve()) for name in options.bundles}
    except JanusEdgeError as error:
        parser.error(str(error))
    return options, bundles


def _programs(program: Path, ort: Path) -> tuple[tuple[str, list[str], list[str]], ...]:
    """Return the words of each program's command before and after the bundle."""
    python = [sys.executable, __file__, WORKER]
    return ("c_api", [str(program)], [str(ort)]), ("python_api", python, [])


def main() -> None:
    """Build the C program, measure, print and record."""
    if sys.argv[1:2] == [WORKER]:
        return run_python(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) or None)
    options, bundles = _options()
    library = options.library.resolve()
    (ort,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JANUS_EDGE_HOME"] = folder  # notes of earlier runs have no say
        program, source = Path(folder) / "native", ROOT / "bench/programs/c_api.c"
        words = [f"-I{ROOT / 'native/include'}", library, f"-Wl,-rpath,{library.parent}"]
        if subprocess.run(["gcc", "-O2", source, *words, "-o", program]).returncode:
            sys.exit(f"native: {library}: cannot be linked; give a built libjanus_edge")
        for name, bundle in bundles.items():
            before = describe()
            commands = {
                f"{api}{suffix}": [*begin, bundle, *end, str(options.threads), parallel]
                for suffix, parallel in (("", "1"), (AUTO, "0"))[: 1 + options.auto]
                for api, begin, end in _programs(program, ort)
            }
            result = {
                "schema": "native/1",
                "command": f"python bench/programs/c_api.py {' '.join(sys.argv[1:])}",
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "commit": checkout_commit(),
                "onnxruntime": onnxruntime.__version__,
                **before,
                "bundle": name,
                "threads": options.threads,
                "warmup_runs": 1,
                "starts": options.starts,
                "images": options.images,
                "chunk": options.chunk,
                "library_bytes": library.stat().st_size,
                "onnxruntime_bytes": ort.stat().st_size,
                **measure(commands, options),
            }
            if options.record is not None:
                append_record(options.record, result)
            print(to_line(result))


if __name__ == "__main__":
    main()
