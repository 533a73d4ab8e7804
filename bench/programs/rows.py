"""Steps by rows, and the parts that compute: instruction sets and versions side by side in one run.

    python bench/programs/rows.py BUNDLE --record bench/records/rows.jsonl
    python bench/programs/rows.py BUNDLE --before CHECKOUT OLD_BUNDLE --record ...

The bundle is an int4 one of a Janus. Each variant (an instruction set of the CPU kernels, "none"
for ONNX Runtime's graphs, "before" for another checkout whose library is built) is measured in
processes of its own, in turn with the others, several rounds; the median counts. Steps begin after
300 positions, about the middle of an image. Operations are two for each product of a matmul, a
convolution or attention; the peak is that of dot products in registers in the same processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

SCHEMA = "rows/1"
ROWS = (1, 2, 4, 8, 16)
FILL, PROMPT, STEPS = 300, 640, 15
KERNELS = "JANUS_EDGE_CPU_KERNELS"


def timed(call: Callable[[], Any], times: int) -> float:
    """Return the median time of a call, ms, after one that does not count."""
    call()
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        spent.append((time.perf_counter() - began) * 1e3)
    return statistics.median(spent)


def measured(folder: Path, num_threads: int, parts: list[str]) -> dict[str, float]:
    """Return the times of a bundle in this process, ms, and the arithmetic's peak, GOP/s.

    Only what older versions have too is imported.
    """
    import numpy as np

    from janus_edge.runtime.bundle import open_bundle
    from janus_edge.runtime.engines import Engines
    from janus_edge.runtime.sizes import CodeSizes

    bundle = open_bundle(folder)
    if bundle.manifest.family != "janus" or bundle.manifest.sizes.max_length < PROMPT:
        sys.exit(f"{folder}: give the bundle of a Janus with room for {PROMPT} positions")
    engines, sizes = Engines(bundle, num_threads), bundle.manifest.sizes
    rng, found = np.random.default_rng(0), dict[str, float]()
    for rows in ROWS if "steps" in parts else ():
        decoder = engines.open_decoder(rows, FILL + STEPS + 2)
        embeds = rng.standard_normal((rows, FILL, sizes.hidden_size), np.float32) * 0.02
        decoder.prefill(embeds, np.full(rows, FILL))
        found[f"step of {rows} rows"] = timed(partial(decoder.step, embeds[:, 0]), STEPS)
    if "prompt" in parts:
        embeds = rng.standard_normal((1, PROMPT, sizes.hidden_size), np.float32) * 0.02

        def prefill() -> None:
            engines.open_decoder(1, PROMPT).prefill(embeds, np.full(1, PROMPT))

        found["prompt"] = timed(prefill, 3)
    pixels = rng.uniform(-1, 1, (1, 3, sizes.image_size, sizes.image_size)).astype(np.float32)
    if "vision" in parts:
        features = engines["vision_encoder"].run({"pixels": pixels})[0]
        found["vision_encoder"] = timed(
            lambda: engines["vision_encoder"].run({"pixels": pixels}), 5
        )
        found["vision_aligner"] = timed(
            lambda: engines["vision_aligner"].run({"features": features}), 5
        )
    if "image_decoder" in parts:
        assert isinstance(sizes, CodeSizes)
        codes = rng.integers(0, sizes.codebook_size, (1, sizes.num_codes))
        found["image_decoder"] = timed(lambda: engines["image_decoder"].run({"codes": codes}), 3)
    return found | _peak(engines)


def _peak(engines: Any) -> dict[str, float]:
    """Return the most operations a second that the kernels' dot products reach, GOP/s."""
    if not engines.uses_cpu_kernels:
        return {}
    pool, most = engines._shared.pool, 0.0
    if not hasattr(pool, "peak_gops"):
        return {}
    for _ in range(5):
        most = max(most, pool.peak_gops())
    return {"peak": most}


def operations(folder: Path) -> dict[str, float]:
    """Return the operations of the parts of a bundle that wait for arithmetic."""
    from janus_edge.bench.operations import component_operations, prompt_operations
    from janus_edge.runtime.bundle import open_bundle

    manifest = open_bundle(folder).manifest
    prompt = prompt_operations(manifest, PROMPT)
    return component_operations(manifest) | ({} if prompt is None else {"prompt": prompt})


def _run(variant: str, options: argparse.Namespace) -> dict[str, float]:
    """Measure a variant once, in a process of its own."""
    words = [sys.executable, str(Path(__file__).resolve()), str(options.bundle), "--inside"]
    environment = dict(os.environ)
    if variant == "before":
        checkout, bundle = options.before
        words[2], environment["PYTHONPATH"] = bundle, str(Path(checkout) / ".types")
    elif variant != "chosen":
        environment[KERNELS] = variant
    words += ["--threads", str(options.threads), "--parts", *options.parts]
    done = subprocess.run(
        words, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        raise SystemExit(f"rows: {variant}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Parse the command line, measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--before", nargs=2, metavar=("CHECKOUT", "BUNDLE"))
    parser.add_argument("--variants", nargs="+", default=["chosen", "avx2", "none"])
    parser.add_argument(
        "--parts", nargs="+", default=["steps", "prompt", "vision", "image_decoder"]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        from janus_edge.runtime.errors import JanusEdgeError

        try:
            print(json.dumps(measured(options.bundle, options.threads, options.parts)))
        except JanusEdgeError as error:
            sys.exit(str(error))
        return
    _compare(options)


def _compare(options: argparse.Namespace) -> None:
    from janus_edge.diagnostics.machine import describe
    from janus_edge.diagnostics.records import append_record, program

    before = describe()
    variants = (["before"] if options.before else []) + options.variants
    found: dict[str, dict[str, list[float]]] = {variant: {} for variant in variants}
    for _ in range(options.rounds):
        for variant in variants:
            for name, value in _run(variant, options).items():
                found[variant].setdefault(name, []).append(value)
    medians = {
        variant: {name: round(statistics.median(values), 2) for name, values in each.items()}
        for variant, each in found.items()
    }
    peaks = [value for each in found.values() for value in each.get("peak", ())]
    done = {name: ops / 1e6 for name, ops in operations(options.bundle).items()}
    peak = max(peaks, default=0.0)
    fractions = {
        variant: {
            name: round(done[name] / ms / peak, 3) for name, ms in each.items() if name in done
        }
        for variant, each in medians.items()
        if peak
    }
    for variant, each in medians.items():
        for name, value in each.items():
            share = fractions.get(variant, {}).get(name)
            of_peak = f", {share:.0%} of the arithmetic's peak" if share else ""
            print(f"{variant:12} {name:18} {value:9.2f}{of_peak}")
    if options.record:
        measures = {"ms": medians, "peak_gops": round(peak, 1), "of_peak": fractions}
        append_record(options.record, {**program(SCHEMA), **before, **measures})


if __name__ == "__main__":
    main()
