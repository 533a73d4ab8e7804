r"""Cost and score of a flow's solver, steps, shift and guidance interval.

    python bench/programs/flow_settings.py BUNDLE --record bench/records/flow-settings.jsonl \
        [--prompts 120] [--split validation] [--guidance-scale 1.5 2 ...] [--threads 1] [--part 1 2]

For each setting of a table it measures the shape score of one image per prompt (evals/shapes.py),
the rows that the network computes, the time per image, and how far the latents are from 300 Euler
steps of the same field. Those have the same prompt, seed, guidance scale and interval, so that only
the solver's error is counted.

A setting's line is appended as soon as it is measured. Settings that the record already has for
this bundle, split and number of prompts are skipped, so the same command resumes where it was
stopped. ``--part 1 2`` measures every second setting from the first on: several processes share the
work, each with a record of its own, to be joined. flow_plot.py reads the record.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from janus_edge.diagnostics.records import append_record, checkout_commit, read_records
from janus_edge.evals.scoring import Outcome, check_split, draw, summary
from janus_edge.evals.shapes import RULES, judge, prompts
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.errors import JanusEdgeError
from janus_edge.runtime.flow import FlowSettings, integrate
from janus_edge.runtime.output import check_writable
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session
from janus_edge.shapes.captions import CATEGORIES, Caption

SCHEMA = "flow-settings/1"
STEPS = {
    "euler": (30, 20, 15, 12, 10, 8, 6, 5),
    "ab2": (16, 12, 10, 8, 7, 6, 5, 4),
    "heun": (15, 8, 5, 4, 3),  # two velocities per step
}
SHIFTS = (1.5, 2.0, 3.0)  # besides 1, with some numbers of steps
SHIFTED = {"euler": (30, 15, 10, 8), "ab2": (12, 8, 6, 5), "heun": (8, 5, 4)}
ALL = (0.0, 1.0)
INTERVALS = ((0.1, 1.0), (0.2, 1.0), (0.0, 0.8), (0.0, 0.5), (0.1, 0.8))
CONTENDERS = (("euler", 30), ("ab2", 12), ("ab2", 8), ("ab2", 6))  # that intervals are tried with
REFERENCE: dict[str, Any] = {"solver": "euler", "num_steps": 300, "shift": 1.0}
ERROR_PROMPTS = 4  # the first ones; a latent error varies less than a score

Case = tuple[bool, Caption]
Latents = list[np.ndarray]


def table(guidance_scale: float) -> Iterator[FlowSettings]:
    """Yield the settings to measure, in an order that tells most if it is stopped.

    Euler's 30 steps, with which the others are compared, come first; then all solvers, then shifts,
    then guidance intervals.
    """
    plain = ((solver, 1.0, ALL) for solver in _counted(STEPS))
    shifted = ((solver, shift, ALL) for shift in SHIFTS for solver in _counted(SHIFTED))
    parts = ((solver, 1.0, part) for part in INTERVALS for solver in CONTENDERS)
    # At scale 1 guidance is off, so that intervals make no difference.
    for (solver, steps), shift, (start, end) in itertools.chain(
        plain, shifted, parts if guidance_scale != 1 else ()
    ):
        yield FlowSettings(
            guidance_scale=guidance_scale,
            num_steps=steps,
            solver=solver,
            shift=shift,
            guidance_start=start,
            guidance_end=end,
        )


def _counted(steps: dict[str, tuple[int, ...]]) -> list[tuple[str, int]]:
    """Return each solver with each number of steps."""
    return [(solver, count) for solver, counts in steps.items() for count in counts]


def velocity_rows(settings: FlowSettings) -> int:
    """Return the rows that the network computes per image: 2 per guided velocity, else 1."""
    rows = 0

    def velocity(z: np.ndarray, t: float, guided: bool) -> np.ndarray:
        nonlocal rows
        rows += 2 if guided else 1
        return z

    for _ in integrate(velocity, np.zeros(1), settings):
        pass
    return rows


def relative_error(latent: np.ndarray, reference: np.ndarray) -> float:
    """Return the RMS of the difference over the RMS of the reference."""
    difference = latent.astype(np.float64) - reference
    return float(np.linalg.norm(difference) / np.linalg.norm(reference))


def request_of(settings: FlowSettings, caption: Caption, seed: int) -> ImageRequest:
    """Return the request that ``janus-edge eval shapes`` makes: a prompt's index is its seed."""
    return ImageRequest(prompt=caption.text, seed=seed, **dataclasses.asdict(settings))


def reference_latents(session: Session, settings: FlowSettings, cases: list[Case]) -> Latents:
    """Return the first prompts' latents by many steps of the settings' own field."""
    finest = dataclasses.replace(settings, **REFERENCE)
    few = enumerate(cases[:ERROR_PROMPTS])
    images = [draw(session, request_of(finest, wanted, seed)) for seed, (_, wanted) in few]
    return [image.latent for image in images if image.latent is not None]


def measure(
    session: Session, settings: FlowSettings, cases: list[Case], references: Latents
) -> dict[str, Any]:
    """Draw every prompt once; return cost, scores, verdicts and latent error.

    A verdict per image ("1": right) lets two settings be compared image by image.

    Args:
        session: The open bundle.
        settings: The setting to measure.
        cases: Captions, and whether each is held out.
        references: Latents of the first captions by ``reference_latents``.
    """
    outcomes: dict[str, list[Outcome]] = {rule: [] for rule in RULES}
    images = []
    for seed, (held_out, wanted) in enumerate(cases):
        image = draw(session, request_of(settings, wanted, seed))
        images.append(image)
        for rule, right in judge(image.pixels, wanted).items():
            outcome = Outcome(group=wanted.category, held_out=held_out, right=right)
            outcomes[rule].append(outcome)
    errors = [
        relative_error(image.latent, reference)
        for image, reference in zip(images, references, strict=False)  # of the first few
        if image.latent is not None
    ]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "velocity_rows": velocity_rows(settings),
        "ms": round(statistics.median(image.elapsed_ms for image in images), 2),
        "latent_error": float(f"{statistics.fmean(errors):.4g}"),
        **{rule: summary(judged) for rule, judged in outcomes.items()},
        "verdicts": {
            rule: "".join(str(int(o.right)) for o in judged) for rule, judged in outcomes.items()
        },
    }


def key_of(record: dict[str, Any]) -> str:
    """Return the text that identifies a setting in a record."""
    names = ("schema", "bundle_sha256", "split", "prompts", "settings")
    return json.dumps([record.get(name) for name in names], sort_keys=True)


def measure_all(
    session: Session, options: argparse.Namespace, report: Callable[[str], None]
) -> None:
    """Measure what the record lacks, and append a line per setting.

    Args:
        session: The open bundle.
        options: The command line's options.
        report: Called with a line on each setting.

    Raises:
        OptionError: The bundle draws codes.
    """
    own = session.image_settings(ImageRequest(prompt="", num_steps=1)).guidance_scale
    todo = [each for scale in options.guidance_scale or [own] for each in table(float(scale))]
    first, of = options.part
    todo = todo[first - 1 :: of]
    records = read_records(options.record) if options.record.exists() else []
    done = {key_of(record) for record in records}
    cases = list(prompts(options.split, options.prompts))
    references: dict[tuple[float, float, float], Latents] = {}
    here = circumstances(session, options)
    for index, settings in enumerate(todo, 1):
        result = here | {"settings": dataclasses.asdict(settings)}
        if key_of(result) in done:
            continue
        field = (settings.guidance_scale, settings.guidance_start, settings.guidance_end)
        if field not in references:
            report(f"the reference of guidance {field[0]:g} at t in {field[1]:g}..{field[2]:g}")
            references[field] = reference_latents(session, settings, cases)
        result |= measure(session, settings, cases, references[field])
        append_record(options.record, result)
        report(f"{index}/{len(todo)} {line_of(result)}")


def circumstances(session: Session, options: argparse.Namespace) -> dict[str, Any]:
    """Return the beginning of a record: which program, where, on what."""
    return {
        "schema": SCHEMA,
        "command": f"python {shlex.join(sys.argv)}",
        "commit": checkout_commit(),
        "machine": f"{platform.machine()} {platform.system()}",
        "onnxruntime": onnxruntime.__version__,
        "threads": options.threads,
        "bundle": session.bundle.manifest.name,
        "bundle_sha256": session.bundle.sha256,
        "split": options.split,
        "prompts": options.prompts,
        "error_prompts": min(ERROR_PROMPTS, options.prompts),
    }


def line_of(result: dict[str, Any]) -> str:
    """Return a measured setting in words."""
    chosen = result["settings"]
    return (
        f"{chosen['solver']} {chosen['num_steps']}, shift {chosen['shift']:g}, "
        f"guidance {chosen['guidance_scale']:g} at t in {chosen['guidance_start']:g}.."
        f"{chosen['guidance_end']:g}: {result['velocity_rows']} rows, {result['ms']:.0f} ms, "
        f"latent error {result['latent_error']:.2g}, GenEval's rule "
        f"{result['geneval']['overall']:.3f}, strict {result['strict']['overall']:.3f}"
    )


def main() -> None:
    """Parse the command line, measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", help="a JanusFlow's folder, or a name that `models` lists")
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=120, help="a multiple of 6")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--guidance-scale", type=float, nargs="+", help="default: the bundle's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--part", type=int, nargs=2, default=(1, 1), metavar=("I", "N"))
    options = parser.parse_args()
    if options.prompts < 1 or options.prompts % len(CATEGORIES):
        parser.error("--prompts: give a multiple of 6, so that the categories weigh alike")
    if not 1 <= options.part[0] <= options.part[1]:
        parser.error("--part: give I from 1 to N")
    try:
        check_split(options.split)
        check_writable(options.record)
        session = Session(open_bundle(options.bundle), num_threads=options.threads)
        measure_all(session, options, lambda line: print(line, file=sys.stderr, flush=True))
    except JanusEdgeError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
