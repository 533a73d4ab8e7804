r"""Time janus-edge and other programs at the same work, in turn within one run.

    pip install -c constraints.txt -e '.[peers]'
    python tools/make_checkpoint.py janus-pro-1b MADE/janus-pro-1b
    janus-edge export MADE/janus-pro-1b MADE/janus-pro-1b-int4 --quantize int4
    python -m janus_edge.bench.programs.peers MADE codes --bundle MADE/janus-pro-1b-int4 \
        --record bench/records/peers.jsonl

Workloads are ``codes``, ``draw``, ``flow`` and ``ask`` (``setup.py`` says what each is). MADE keeps
what peers make once. Every peer has a process of its own, open for the whole run. A round runs each
in turn; the first round does not count. A peer whose first run took longer than --patience seconds
is not run again: its first run is recorded, and one as its number of runs.
"""

from __future__ import annotations

import argparse
import math
import shlex
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from janus_edge.bench.process import Run, Worker
from janus_edge.bench.programs.peers.setup import Setup, open_named, peers
from janus_edge.diagnostics.machine import describe, read_rates
from janus_edge.diagnostics.records import append_record, checkout_commit
from janus_edge.runtime.errors import JanusEdgeError, OptionError
from janus_edge.runtime.output import check_writable

SCHEMA = "peers/1"
MIDDLE = (0.4, 0.6)  # the part of an image's steps that "mid-image" means


def measure(
    files: dict[str, str], workload: str, setup: Setup, num_runs: int, patience: float
) -> dict[str, dict[str, Any]]:
    """Return the results of each peer.

    Args:
        files: File of each peer by name.
        workload: The workload.
        setup: What peers are opened with.
        num_runs: Timed runs.
        patience: Longest first run of a peer that is run again, in seconds.

    Raises:
        OptionError: A peer does not have this workload.
    """
    workers = {}
    for name, file in files.items():
        _say(f"opening {name}")
        workers[name] = Worker(open_named, file, name, workload, setup)
        _, workloads = workers[name].opened
        if workload not in workloads:
            raise OptionError(f"{name} has no work {workload}; it has {', '.join(workloads)}")
    first = {name: worker.run(workload) for name, worker in workers.items()}
    for name, run in first.items():
        _say(f"{name}: {run.total_ms / 1e3:.1f} s, which does not count if it runs again")
    kept: dict[str, list[Run]] = {
        name: [run] if run.total_ms > patience * 1e3 else [] for name, run in first.items()
    }
    again = [name for name, runs in kept.items() if not runs]
    for index in range(num_runs):
        for name in again:
            kept[name].append(workers[name].run(workload))
        _say(f"round {index + 1} of {num_runs}")
    return {
        name: {"about": workers[name].opened[0], "runs": len(runs)}
        | summary(runs)
        | {"peak_mb": round(workers[name].close() / 1e6)}
        for name, runs in kept.items()
    }


def summary(runs: list[Run]) -> dict[str, float]:
    """Return medians over runs, in ms: the whole, to the first step's end, and between steps.

    The time between steps is given for all steps, and for those in the middle of the run.
    """
    gaps = [np.diff(run.step_ends_ms) for run in runs]
    start, stop = int(MIDDLE[0] * len(gaps[0])), math.ceil(MIDDLE[1] * len(gaps[0]))
    found: dict[str, Any] = {
        "total_ms": [run.total_ms for run in runs],
        "ttft_ms": [run.step_ends_ms[0] for run in runs],
        "itl_ms": np.concatenate(gaps),
        "itl_mid_ms": np.concatenate([each[start:stop] for each in gaps]),
    }
    return {
        name: round(float(np.median(values)), 3) for name, values in found.items() if len(values)
    }


def main() -> None:
    """Parse the command line, measure, print and record."""
    options = _options()
    found, missing = peers(options.workload)
    for name, why in missing.items():
        _say(f"{name}.py is left out: {why}; the extra peers has it")
    try:
        files = _chosen(options.peers, found, options.workload)
        check_writable(options.record)
        options.made.mkdir(parents=True, exist_ok=True)
        setup = Setup(
            made=options.made,
            bundle=options.bundle,
            num_threads=options.threads,
            prompt_tokens=options.prompt_tokens,
            max_tokens=options.max_tokens,
            device=options.device,
        )
        before, rates = describe(), read_rates(options.threads)
        rows = measure(files, options.workload, setup, options.runs, options.patience)
    except JanusEdgeError as error:
        sys.exit(f"peers: {error}")
    append_record(
        options.record,
        {
            "schema": SCHEMA,
            "command": f"python -m janus_edge.bench.programs.peers {shlex.join(sys.argv[1:])}",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": checkout_commit(),
            **before,
            "read_gb_s": round(statistics.median(rates) / 1e9, 2),
            "work": options.workload,
            "threads": options.threads,
            "device": options.device,
            "prompt_tokens": options.prompt_tokens,
            "peers": rows,
        },
    )
    for name, row in rows.items():
        numbers = "  ".join(f"{key} {value}" for key, value in row.items() if key != "about")
        print(f"{name}: {numbers}")


def _chosen(wanted: list[str] | None, found: dict[str, str], workload: str) -> dict[str, str]:
    """Return the file of each wanted peer; raise OptionError if one is not there."""
    for name in wanted or ():
        if name not in found:
            raise OptionError(f"no peer {name!r} here for {workload}; there are {', '.join(found)}")
    return {name: found[name] for name in wanted} if wanted else found


def _options() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("made", type=Path, help="where peers keep what they make once")
    parser.add_argument("workload", choices=("codes", "draw", "flow", "ask"))
    parser.add_argument(
        "--peers", nargs="+", help="names; default: all of the workload that can be imported"
    )
    parser.add_argument("--bundle", help="janus-edge's")
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--prompt-tokens", type=int, default=20)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--patience", type=float, default=120, help="seconds")
    return parser.parse_args()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
