"""Latency of bundles: time runs of one or two bundles in turn, and summarize them.

Two bundles take turns within one run, so that a drift of the machine affects both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import onnxruntime

from janus_edge.bench.process import Run, Worker
from janus_edge.bench.workloads import Opened, Settings, Workload, open_workloads
from janus_edge.diagnostics.machine import describe, peak_gops, read_rates
from janus_edge.diagnostics.records import checkout_commit
from janus_edge.runtime.events import Pass

SCHEMA = "bench/4"
Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to time, and how often.

    Attributes:
        workloads: The workloads.
        num_runs: Timed runs of each.
        num_warmups: Untimed runs before those.
        settings: Settings of the bundle and its requests.
    """

    workloads: tuple[Workload, ...]
    num_runs: int
    num_warmups: int
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What this machine can do: bytes read a second, and 1e9 operations on 8 bits a second."""

    bandwidth: float
    gops: float | None


def measure(models: tuple[str | None, ...], plan: Plan, report: Report) -> dict[str, Any]:
    """Time the workloads of each bundle and return the record.

    Args:
        models: Folder or name of each bundle; None for the default.
        plan: What to time.
        report: Called with a line after each round.

    Raises:
        JanusEdgeError: A bundle cannot be opened, or a request cannot be run.
    """
    machine = describe()  # before the work adds to the load
    workers = [Worker(open_workloads, model, plan.settings) for model in models]
    runs: list[dict[Workload, list[Run]]] = [
        {workload: [] for workload in plan.workloads} for _ in workers
    ]
    rates = read_rates(plan.settings.num_threads)  # measured often: other users change them
    peaks = [peak_gops(plan.settings.num_threads)]
    for index in range(plan.num_warmups + plan.num_runs):
        for workload in plan.workloads:
            for worker, kept in zip(workers, runs, strict=True):
                kept[workload].append(worker.run(workload))
                rates += read_rates(plan.settings.num_threads)
                peaks.append(peak_gops(plan.settings.num_threads))
        report(f"round {index + 1} of {plan.num_warmups + plan.num_runs}")
    bandwidth = float(np.median(rates))  # the median, as of steps
    known = [each for each in peaks if each is not None]
    limits = Limits(bandwidth=bandwidth, gops=float(np.median(known)) if known else None)
    return {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": checkout_commit(),
        "janus_edge": version("janus-edge"),
        "onnxruntime": onnxruntime.__version__,  # whichever wheel it is of
        **machine,
        "read_gb_s": round(bandwidth / 1e9, 2),
        "peak_gops": None if limits.gops is None else round(limits.gops, 1),
        "warmups": plan.num_warmups,
        "runs": plan.num_runs,
        "settings": asdict(plan.settings),
        "bundles": [
            _bundle(worker, kept, plan, limits) for worker, kept in zip(workers, runs, strict=True)
        ],
    }


def _bundle(
    worker: Worker, runs: dict[Workload, list[Run]], plan: Plan, limits: Limits
) -> dict[str, Any]:
    """Return the results of a bundle; end its process."""
    opened, first = worker.opened, plan.workloads[0]
    return {
        "name": opened.name,
        "family": opened.family,
        "sha256": opened.sha256,
        "weights": opened.weights,
        "device": opened.device,
        "decoder": "cpu_kernels" if opened.uses_cpu_kernels else opened.backend,
        "instructions": opened.instructions,
        "prompt_tokens": opened.prompt_tokens,
        "open_ms": round(opened.open_ms, 1),
        # The first request opens the engines that it needs.
        "first_ms": round(opened.open_ms + runs[first][0].step_ends_ms[0], 1),
        "peak_mb": round(worker.close() / 1e6),
    } | {
        workload: summary(workload, kept[plan.num_warmups :], opened, plan.settings, limits)
        for workload, kept in runs.items()
    }


def summary(
    workload: Workload, runs: list[Run], opened: Opened, settings: Settings, limits: Limits
) -> dict[str, Any]:
    """Return the 20th, 50th and 80th percentiles of a workload's runs, in ms.

    TTFT is the time to the first code, step or token; ITL is the time between two steps. A pass
    that adds several codes is one step.
    ``bandwidth_fraction`` is the part of the memory bandwidth that the median step reaches;
    ``peak_fraction`` the part of the arithmetic's peak that a part reaches which waits for it.

    Args:
        workload: The workload.
        runs: Timed runs.
        opened: The bundle.
        settings: Settings of the bundle and its requests.
        limits: What this machine can do.
    """
    by_run = [run.gaps_ms for run in runs]
    gaps = np.concatenate(by_run)
    found: dict[str, Any] = {
        "steps": int(np.median([len(each) for each in by_run])) + 1,
        "ttft_ms": _quantiles([run.step_ends_ms[0] for run in runs]),
        "itl_ms": _quantiles(gaps) if len(gaps) else None,
        "itl_tenths_ms": _tenths(by_run),
        "total_ms": _quantiles([run.total_ms for run in runs]),
        "component_ms": _components(runs),
    }
    total, read = found["total_ms"]["p50"], opened.step_bytes[workload]
    if workload == "draw":
        found["image_ms"] = {k: round(v / settings.batch, 3) for k, v in found["total_ms"].items()}
        made = len(runs[0].step_ends_ms)
        if opened.codes is not None:
            made = settings.batch * opened.codes
            found |= _passes([each for run in runs for each in run.passes], opened.images_at_once)
        found["steps_a_second"] = round(made / total * 1e3, 3)
    if read is not None and len(gaps):
        found["step_mb"] = round(read / 1e6, 2)
        found["bandwidth_fraction"] = round(
            read / (found["itl_ms"]["p50"] / 1e3) / limits.bandwidth, 3
        )
    if limits.gops is not None and opened.uses_cpu_kernels:
        found["peak_fraction"] = _peak_fractions(opened.operations[workload], found, limits.gops)
    return found


def _passes(passes: list[Pass], images: float) -> dict[str, Any]:
    """Return what passes add to an image, and the median cost of each width, ms."""
    if not passes:
        return {}
    by_width = {width: [e.took_ms for e in passes if e.width == width] for width in _widths(passes)}
    return {
        "codes_a_pass": round(sum(each.codes for each in passes) / images / len(passes), 3),
        "passes_of_width": {str(width): len(each) for width, each in by_width.items()},
        "pass_ms": {str(w): round(float(np.median(each)), 3) for w, each in by_width.items()},
    }


def _widths(passes: list[Pass]) -> list[int]:
    return sorted({each.width for each in passes})


def _peak_fractions(
    operations: dict[str, float], found: dict[str, Any], gops: float
) -> dict[str, float]:
    """Return the part of the arithmetic's peak that each part reaches.

    The prompt of a question takes what is left of the time to the first token.
    """
    spent = dict(found["component_ms"])
    seen = sum(ms for name, ms in spent.items() if name.startswith("vision_"))
    spent["prompt"] = found["ttft_ms"]["p50"] - seen
    return {
        name: round(each / 1e6 / spent[name] / gops, 3)
        for name, each in operations.items()
        if spent.get(name, 0) > 0
    }


def _tenths(by_run: list[np.ndarray]) -> list[float] | None:
    """Return the median time between steps in each tenth of a run: whether steps get slower."""
    if min(map(len, by_run)) < 10:
        return None
    parts = zip(*(np.array_split(gaps, 10) for gaps in by_run), strict=True)
    return [round(float(np.median(np.concatenate(part))), 3) for part in parts]


def _components(runs: list[Run]) -> dict[str, float]:
    """Return the median time in each component, and in "rest", which is everything else."""
    rows = [
        run.component_ms | {"rest": run.total_ms - sum(run.component_ms.values())} for run in runs
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    return {n: round(float(np.median([row.get(n, 0.0) for row in rows])), 3) for n in names}


def _quantiles(values: list[float] | np.ndarray) -> dict[str, float]:
    """Return the 20th, 50th and 80th percentile."""
    p20, p50, p80 = np.percentile(values, (20, 50, 80))
    return {"p20": round(p20, 3), "p50": round(p50, 3), "p80": round(p80, 3)}
