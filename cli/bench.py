"""``janus-edge bench``: how long images and answers take, and how near that is to the bandwidth."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from janus_edge.cli.options import Device, Json, Parallel, user_path


class Workloads(StrEnum):
    """The workloads to time."""

    draw = "draw"
    ask = "ask"
    both = "both"


def bench(
    bundle: Annotated[
        str | None, typer.Argument(help="Bundle folder, or a name that `models` lists.")
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Two bundles to time in turn, instead of one.", metavar="BUNDLE BUNDLE"),
    ] = None,
    workload: Annotated[Workloads, typer.Option(help="What to time.")] = Workloads.both,
    runs: Annotated[int, typer.Option(help="Timed runs of each workload.", min=1)] = 5,
    warmups: Annotated[int, typer.Option(help="Untimed runs before those.", min=0)] = 1,
    threads: Annotated[
        int, typer.Option(help="Threads of the backend; 0 lets it choose.", min=0)
    ] = 0,
    device: Device = "auto",
    batch: Annotated[int, typer.Option(help="Images per request.", min=1)] = 1,
    prompt_length: Annotated[int, typer.Option(help="Shortest prompt, in tokens.", min=0)] = 0,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)] = 32,
    steps: Annotated[
        int | None, typer.Option(help="JanusFlow: steps per image. Default: the bundle's.")
    ] = None,
    parallel: Parallel = "auto",  # type: ignore[assignment]
    json: Json = False,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Append the result to this file, as a JSON line.", metavar="FILE", parser=user_path
        ),
    ] = None,
) -> None:
    """Time images and answers of one or two bundles.

    Shows latency, peak memory, and the fraction of the memory bandwidth that steps reach. TTFT is
    the time to the first code, step or token; ITL is the time from one to the next. Each is shown
    with its 20th, 50th and 80th percentile.
    """
    from rich.console import Console

    from janus_edge.bench.latency import Plan, measure
    from janus_edge.bench.workloads import WORKLOADS, Settings
    from janus_edge.cli.json_output import print_json
    from janus_edge.diagnostics.records import append_record
    from janus_edge.runtime.bundle import find_bundle
    from janus_edge.runtime.output import check_writable, is_standard_output
    from janus_edge.runtime.stop import displayed, keeping

    if compare is not None and bundle is not None:
        raise typer.BadParameter("give either a bundle or --compare with two")
    if record is not None:
        check_writable(record)  # not after minutes of work
        if json and is_standard_output(record):
            raise typer.BadParameter("--json and --record - both want standard output")
    settings = Settings(
        num_threads=threads,
        device=device,
        batch=batch,
        prompt_length=prompt_length,
        max_tokens=max_tokens,
        num_steps=steps,
        parallel=parallel or None,
    )
    workloads = tuple(each for each in WORKLOADS if workload in (each, Workloads.both))
    plan = Plan(workloads=workloads, num_runs=runs, num_warmups=warmups, settings=settings)
    models = compare or (bundle,)
    for each in models:
        find_bundle(each)  # not in processes that are started first
    status = Console(stderr=True).status("measuring")
    with keeping(lambda: "nothing was recorded"), displayed(status) as shown:
        result = measure(models, plan, shown.update)
    if record is not None:
        append_record(record, result)
    if json:
        print_json(result)
    elif record is None or not is_standard_output(record):
        _show(result)


def _show(result: dict[str, Any]) -> None:
    """Print a result as a table, one column per bundle."""
    from rich.console import Console
    from rich.table import Table

    console, bundles = Console(highlight=False), result["bundles"]
    console.print(f"{result['machine']}, {result['memory_gb']} GB", soft_wrap=True)
    console.print(
        f"{result['power']}; load {' '.join(map(str, result['load']))}; reads "
        f"{result['read_gb_s']} GB/s{_peak(result)}; ONNX Runtime {result['onnxruntime']}",
        soft_wrap=True,
    )
    console.print(
        f"{result['runs']} runs after {result['warmups']}; p50 (p20 to p80), in ms", soft_wrap=True
    )
    table = Table("", *(bundle["name"] for bundle in bundles), box=None)
    if len(bundles) == 2:
        table.add_column("ratio")
    for name, values in _rows(bundles):
        shown = [_cell(value) for value in values]
        if len(bundles) == 2:
            shown.append(_ratio(*values))
        table.add_row(name, *shown)
    console.print(table)


def _rows(bundles: list[dict[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Return the table's rows: a name, and each bundle's value or None."""
    rows = [(key, [bundle[key] for bundle in bundles]) for key in _GENERAL]
    for workload in ("draw", "ask"):
        parts = [bundle[workload] for bundle in bundles if workload in bundle]
        if not parts:
            continue
        for key, name in _OF_A_WORKLOAD[workload].items():
            values = [part.get(key) for part in parts]
            if any(value is not None for value in values):
                rows.append((f"{workload}: {name}", values))
        for name in dict.fromkeys(name for part in parts for name in part["component_ms"]):
            values = [part["component_ms"].get(name) for part in parts]
            rows.append((f"{workload}:   {name}", values))
        shares = [part.get("peak_fraction", {}) for part in parts]
        for name in dict.fromkeys(name for share in shares for name in share):
            shown = f"{workload}:   {name}, of the arithmetic's peak"
            rows.append((shown, [share.get(name) for share in shares]))
    return rows


def _peak(result: dict[str, Any]) -> str:
    """Return the arithmetic's peak in words, if it is known."""
    known = result.get("peak_gops")
    return "" if known is None else f", computes {known:.0f}e9 operations a second"


_GENERAL = (
    "weights",
    "device",
    "decoder",
    "instructions",
    "prompt_tokens",
    "open_ms",
    "first_ms",
    "peak_mb",
)
_STEPS = {"steps": "steps", "ttft_ms": "TTFT", "itl_ms": "ITL"}
_PASSES = {"codes_a_pass": "codes a pass", "pass_ms": "a pass, by positions"}
_READ = {"step_mb": "MB read a step", "bandwidth_fraction": "of the memory bandwidth"}
_OF_A_WORKLOAD = {
    "draw": _STEPS
    | {"image_ms": "an image", "steps_a_second": "codes or steps a second"}
    | _PASSES
    | _READ,
    "ask": _STEPS | {"total_ms": "an answer"} | _READ,
}


def _cell(value: Any) -> str:
    """Return a value as text, a distribution as its median and range."""
    if value is None:
        return "-"
    if isinstance(value, dict) and "p50" not in value:
        return ", ".join(f"{key}: {_number(each)}" for key, each in value.items())
    if isinstance(value, dict):
        p20, p50, p80 = (_number(value[key]) for key in ("p20", "p50", "p80"))
        return f"{p50} ({p20} to {p80})"
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    """Return a number with three digits, or with all digits before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(first: Any, second: Any) -> str:
    """Return the second value over the first; empty if there is none."""
    pair = [value.get("p50", 0) if isinstance(value, dict) else value for value in (first, second)]
    if not all(isinstance(value, int | float) and value for value in pair):
        return ""
    return f"{pair[1] / pair[0]:.2f}"
