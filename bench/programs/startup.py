"""How long whole commands take, as seen from a shell.

    python bench/programs/startup.py [--runs 20] [--record bench/records/startup.jsonl]

It times an empty Python process (the floor), ``import janus_edge``, ``janus-edge --help``, one
image drawn by ``load`` and ``draw``, one drawn by the command, and one answered question. They take
turns, so that a drift of the machine affects all.
The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import onnxruntime

from janus_edge.diagnostics.machine import processor
from janus_edge.diagnostics.records import append_record, checkout_commit, to_line
from janus_edge.runtime.bundle import DEFAULT

TWO_LINES = """
import janus_edge
model = janus_edge.load()
model.draw("a red apple", seed=7)
"""
COMMAND = str(Path(sys.executable).parent / "janus-edge")


def commands(folder: str) -> dict[str, list[str]]:
    """Return the commands to time; the question is about the image that ``generate`` draws."""
    return {
        "python_ms": [sys.executable, "-c", ""],
        "import_ms": [sys.executable, "-c", "import janus_edge"],
        "help_ms": [COMMAND, "--help"],
        "load_draw_ms": [sys.executable, "-c", TWO_LINES],
        "generate_ms": [COMMAND, "generate", "a red apple", "-o", f"{folder}/out.png"],
        "ask_ms": [COMMAND, "ask", f"{folder}/out.png", "what is this?"],
    }


def main() -> None:
    """Parse the command line, measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    spent: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for run in range(options.runs + 1):
            for name, words in commands(folder).items():
                began = time.perf_counter()
                subprocess.run(words, check=True, capture_output=True)
                if run:  # the first round warms the file cache
                    spent.setdefault(name, []).append((time.perf_counter() - began) * 1e3)
    result = {
        "schema": "startup/2",  # startup/1 was of tiny-janus
        "model": DEFAULT,
        "command": "python bench/programs/startup.py",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": checkout_commit(),
        "machine": f"{platform.machine()} {platform.system()}, {processor()}",
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "warmup_runs": 1,
        "runs": options.runs,
    }
    for name, values in spent.items():
        cuts = statistics.quantiles(values, n=10)
        result[name] = {"p20": round(cuts[1]), "p50": round(cuts[4]), "p80": round(cuts[7])}
    if options.record is not None:
        append_record(options.record, result)
    print(to_line(result))


if __name__ == "__main__":
    main()
