"""Steps by rows, and the parts that compute: instruction sets and versions side by side in one run.

    python bench/programs/rows.py BUNDLE --record bench/records/rows.jsonl
    python bench/programs/rows.py BUNDLE --before CHECKOUT OLD_BUNDLE --record ...

The bundle is an int4 one. Each variant (an instruction set of the CPU kernels, "none"
for ONNX Runtime's graphs, "before" for another checkout whose library is built) is measured in
processes of its own, in turn with the others, several rounds; the median counts. Steps of different
numbers of rows take turns too. They begin after 22 positions, where an image begins, and after 300,
about its middle. Operations are two for each product of a matmul, a
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
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

SCHEMA = "rows/2"
ROWS = (1, 2, 4, 8, 16)
FILLS, PROMPT, STEPS = (22, 300), 640, 15
KERNELS = "JANUS_EDGE_CPU_KERNELS"


def timed(calls: Mapping[str, Callable[[], Any]], times: int) -> dict[str, float]:
    """Return the median time of each call, ms. They take turns; their first ones do not count."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(times + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn:
                spent[name].append((time.perf_counter() - began) * 1e3)
    return {name: statistics.median(each) for name, each in spent.items()}


def measured(folder: Path, num_threads: int, parts: list[str]) -> dict[str, float]:
    """Return the times of a bundle in this process, ms, and the arithmetic's peak, GOP/s.

    Only what older versions have too is imported.
    """
    import numpy as np

    from janus_edge.runtime.bundle import open_bundle
    from janus_edge.runtime.engines import Engines
    from janus_edge.runtime.sizes import FlowSizes

    bundle = open_bundle(folder)
    if bundle.manifest.sizes.max_length < PROMPT:
        sys.exit(f"{folder}: give a bundle with room for {PROMPT} positions")
    engines, sizes = Engines(bundle, num_threads), bundle.manifest.sizes
    rng, found = np.random.default_rng(0), dict[str, float]()
    for fill in FILLS if "steps" in parts else ():
        steps = {}
        for rows in ROWS:
            decoder = engines.open_decoder(rows, fill + STEPS + 2)
            embeds = rng.standard_normal((rows, fill, sizes.hidden_size), np.float32) * 0.02
            decoder.prefill(embeds, np.full(rows, fill))
            steps[f"step of {rows} rows after {fill}"] = partial(decoder.step, embeds[:, 0])
        found |= timed(steps, STEPS)
    if "prompt" in parts:
        embeds = rng.standard_normal((1, PROMPT, sizes.hidden_size), np.float32) * 0.02

        def prefill() -> None:
            engines.open_decoder(1, PROMPT).prefill(embeds, np.full(1, PROMPT))

        found |= timed({"prompt": prefill}, 3)
    pixels = rng.uniform(-1, 1, (1, 3, sizes.image_size, sizes.image_size)).astype(np.float32)
    if "vision" in parts:
        encoder, aligner = engines["vision_encoder"], engines["vision_aligner"]
        features = encoder.run({"pixels": pixels})[0]
        found |= timed({"vision_encoder": partial(encoder.run, {"pixels": pixels})}, 5)
        found |= timed({"vision_aligner": partial(aligner.run, {"features": features})}, 5)
    if isinstance(sizes, FlowSizes) and "velocity" in parts:
        found |= _velocity(engines, rng, sizes)
    if "image_decoder" in parts:
        given = _drawn(rng, sizes)
        found |= timed({"image_decoder": partial(engines["image_decoder"].run, given)}, 3)
    return found | _peak(engines)


def _drawn(rng: Any, sizes: Any) -> dict[str, Any]:
    """Return what an image decoder is given: random codes or a random latent."""
    if hasattr(sizes, "latent_shape"):
        return {"latent": rng.standard_normal((1, *sizes.latent_shape)).astype("float32")}
    return {"codes": rng.integers(0, sizes.codebook_size, (1, sizes.num_codes))}


def _velocity(engines: Any, rng: Any, sizes: Any) -> dict[str, float]:
    """Return the decoder's time for a row of a JanusFlow's velocity."""
    import numpy as np

    first, count = FILLS[0], 1 + sizes.num_latent_tokens
    decoder = engines.open_decoder(1, first + count, steps=False)
    embeds = rng.standard_normal((1, first + count, sizes.hidden_size), np.float32) * 0.02
    decoder.prefill(embeds[:, :first], np.full(1, first))
    positions = np.arange(first, first + count)[None]
    return timed({"velocity": partial(decoder.look_ahead, embeds[:, first:], positions)}, 3)


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
    from janus_edge.bench import operations as count
    from janus_edge.runtime.bundle import open_bundle

    manifest = open_bundle(folder).manifest
    found = {"prompt": count.prompt_operations(manifest, PROMPT)}
    if manifest.family == "janusflow":
        found["velocity"] = count.velocity_operations(manifest, FILLS[0])
    known = {name: each for name, each in found.items() if each is not None}
    return count.component_operations(manifest) | known


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
        "--parts", nargs="+", default=["steps", "prompt", "vision", "velocity", "image_decoder"]
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
            print(f"{variant:12} {name:26} {value:9.2f}{of_peak}")
    if options.record:
        measures = {"ms": medians, "peak_gops": round(peak, 1), "of_peak": fractions}
        append_record(options.record, {**program(SCHEMA), **before, **measures})


if __name__ == "__main__":
    main()
