"""Time each kernel beside PyTorch on this machine's GPU; print a line per case, and record.

python -m janus_edge.bench.programs.kernels --record bench/records/kernels.jsonl
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import triton
from triton.testing import do_bench

from janus_edge.bench.programs.kernels.case import Case
from janus_edge.diagnostics.records import append_record, checkout_commit

SCHEMA = "kernels/2"
KERNELS = ("sample", "look_up", "take", "nearest_code", "flow_update", "decoder")
QUANTILES = {"p20": 0.2, "p50": 0.5, "p80": 0.8}
COPIED = 2**28  # bytes, to measure the memory bandwidth


def main() -> None:
    """Parse the command line, measure, print and record; exit if there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("kernels: no GPU here; run it where torch.cuda.is_available()")
    source = torch.empty(COPIED, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    bandwidth = 2 * COPIED / (do_bench(lambda: target.copy_(source), return_mode="median") / 1e3)
    rows = []
    for kernel in KERNELS:
        for case in import_module(f"janus_edge.bench.programs.kernels.{kernel}").cases("cuda"):
            rows.append({"kernel": kernel, **measured(case, bandwidth)})
            print(line(rows[-1]))
    if options.record:
        append_record(
            options.record,
            {
                "schema": SCHEMA,
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "commit": checkout_commit(),
                "device": torch.cuda.get_device_name(),
                "torch": torch.__version__,
                "triton": triton.__version__,
                "copy_gb_s": round(bandwidth / 1e9, 1),
                "cases": rows,
            },
        )


def measured(case: Case, bandwidth: float) -> dict[str, Any]:
    """Return both times in microseconds, their ratio and our fraction of the memory bandwidth.

    The times include the launch. A case that takes less than a launch gains from a CUDA graph.
    """
    found = {}
    for name, call in (("ours_us", case.ours), ("eager_us", case.eager)):
        times = do_bench(call, quantiles=list(QUANTILES.values()))
        found[name] = {q: round(t * 1e3, 2) for q, t in zip(QUANTILES, times, strict=True)}
    ours, eager = found["ours_us"]["p50"], found["eager_us"]["p50"]
    return {
        "shape": case.shape,
        **found,
        "ratio": round(eager / ours, 2),
        "bandwidth_fraction": round(case.num_bytes / (ours / 1e6) / bandwidth, 4),
    }


def line(row: dict[str, Any]) -> str:
    """Return a result in words."""
    ours, eager = row["ours_us"]["p50"], row["eager_us"]["p50"]
    return (
        f"{row['kernel']}, {row['shape']}: {ours:.1f} us, eager {eager:.1f} us, "
        f"{row['ratio']:.1f} times as fast, {row['bandwidth_fraction']:.1%} of the bandwidth"
    )


if __name__ == "__main__":
    main()
