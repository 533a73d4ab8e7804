"""Teach a small model something new, in full and by LoRA; score before and after.

    python bench/programs/fine_tuning.py WORK --record bench/records/fine_tuning.jsonl

It scores what is new (houses for tiny-janus, blips for tiny-things: ``bench/programs``) and what
the model knew (``janus-edge eval``). So that the model keeps what it knew, scenes of its world are
mixed with the new images. WORK is made; runs that are there go on.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from janus_edge.bench.programs import blips, houses
from janus_edge.data.build import build_shards
from janus_edge.diagnostics.machine import describe
from janus_edge.diagnostics.records import append_record, program
from janus_edge.evals.scoring import Exam, draw
from janus_edge.evals.scoring import run as score
from janus_edge.evals.shapes import EXAM as SHAPES
from janus_edge.evals.things import EXAM as THINGS
from janus_edge.export.bundle.writer import export_bundle
from janus_edge.model.weights import load_checkpoint
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session
from janus_edge.train.engine import Settings
from janus_edge.train.recipe import load_recipe
from janus_edge.train.run import How, train_recipe
from janus_edge.train.start import Sources
from janus_edge.train.worlds import write_world

CHECKPOINTS = Path("checkpoints")
SCHEMA = "fine-tuning/2"
WAYS = {"full": 0, "lora": 16}  # name and rank
OLD_SCENES = 6000  # of the world that it knows
REPEAT = 4  # how often an epoch takes each new image
SEEDS = range(8)


@dataclass(frozen=True)
class Subject:
    """A world that a model knows, and something new for it.

    Attributes:
        world: Name of the world that it knows.
        exam: Scores what it knows.
        new: Program that writes what is new, with PROMPTS, write and is_wanted.
    """

    world: str
    exam: Exam
    new: ModuleType


SUBJECTS = {
    "tiny-janus": Subject("shapes", SHAPES, houses),
    "tiny-things": Subject("things", THINGS, blips),
}


def write_data(work: Path, subject: Subject) -> Path:
    """Write shards of new and old examples, and the file that lists them; return that file."""
    listed = work / "data.toml"
    if not listed.exists():
        subject.new.write(work / "photos")
        build_shards(work / "photos", work / "new")
        write_world(subject.world, work / "old", OLD_SCENES)
        lines = [f'{role} = ["old/{role}"]' for role in ("understanding", "text")]
        new = f'{{path = "new/generation", repeat = {REPEAT}}}'
        lines.append(f'generation = ["old/generation", {new}]')
        listed.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return listed


def tuned(work: Path, model: str, way: str, data: Path) -> tuple[Path, float]:
    """Train; return the checkpoint and the seconds that it took."""
    began = time.monotonic()
    how = How(settings=Settings(rows_at_once=32), lora=WAYS[way])
    sources = Sources(checkpoint=CHECKPOINTS / model)
    made = train_recipe(load_recipe(f"{model}-tune"), data, work / way, sources, how, print)
    return made, time.monotonic() - began


def scores(bundle: Path, subject: Subject, count: int) -> dict[str, Any]:
    """Return how often what is new is drawn, and the scores of what the model knew."""
    session = Session(open_bundle(bundle))
    right = [
        subject.new.is_wanted(draw(session, ImageRequest(prompt=prompt, seed=seed)).pixels, prompt)
        for prompt in subject.new.PROMPTS
        for seed in SEEDS
    ]
    old = score(
        subject.exam,
        model=str(bundle),
        num_prompts=count,
        num_questions=count,
        split="test",
        settings={},
        record=None,
        sheet=None,
        report=lambda line: None,
    )
    found = {"new": round(float(np.mean(right)), 4), "new_images": len(right)}
    old_scores = {"drawing": old["geneval"]["overall"], "answering": old["answering"]["overall"]}
    return found | {"old": old_scores, "old_prompts": count}


def measured(work: Path, model: str, count: int, ways: list[str]) -> dict[str, Any]:
    """Return the scores before, and after each way of training."""
    subject = SUBJECTS[model]
    before = work / "before"
    if not before.exists():
        export(CHECKPOINTS / model, before)
    data = write_data(work, subject)
    found: dict[str, Any] = {"before": scores(before, subject, count)}
    for way in ways:
        checkpoint, seconds = tuned(work, model, way, data)
        export(checkpoint, work / f"{way}-bundle")
        found[way] = scores(work / f"{way}-bundle", subject, count) | {
            "training_s": round(seconds, 1)
        }
    return found


def export(checkpoint: Path, bundle: Path) -> None:
    """Compile a checkpoint to a bundle."""
    loaded = load_checkpoint(checkpoint)
    export_bundle(loaded, bundle, max_length=256, report=lambda line: None, replace=True)


def main() -> None:
    """Parse the command line, measure, print and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", choices=tuple(SUBJECTS), default="tiny-things")
    parser.add_argument("--count", type=int, default=600, help="old prompts, and questions")
    parser.add_argument("--only", nargs="+", choices=tuple(WAYS), default=list(WAYS))
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    machine = describe()
    found = measured(options.work, options.model, options.count, options.only)
    print(found, flush=True)
    if options.record:
        append_record(
            options.record, {**program(SCHEMA), **machine, "model": options.model, **found}
        )


if __name__ == "__main__":
    main()
