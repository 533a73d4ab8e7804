"""Teach the default bundle's checkpoint something new, in full and by LoRA; score before and after.

    python bench/programs/fine_tuning.py WORK --record bench/records/fine_tuning.jsonl

It scores what is new (houses, ``bench/programs/houses.py``) and what the model knew (``janus-edge
eval shapes``). WORK is made; runs that are there go on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from janus_edge.bench.programs.houses import is_house, write_houses
from janus_edge.data.build import build_shards
from janus_edge.diagnostics.machine import describe
from janus_edge.diagnostics.records import append_record, program
from janus_edge.evals.scoring import draw
from janus_edge.evals.scoring import run as score
from janus_edge.evals.shapes import EXAM
from janus_edge.export.bundle.writer import export_bundle
from janus_edge.model.weights import load_checkpoint
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session
from janus_edge.shapes.scenes import COLOURS
from janus_edge.train.engine import Settings
from janus_edge.train.recipe import load_recipe
from janus_edge.train.run import How, train_recipe
from janus_edge.train.start import Sources
from janus_edge.train.worlds import write_world

SCHEMA = "fine-tuning/1"
START = Path("checkpoints/tiny-janus")
RECIPE = "tiny-janus-tune"
WAYS = {"full": 0, "lora": 16}  # name and rank
OLD_SCENES = 6000  # of what the model knows, so that it keeps it
REPEAT = 6  # how often an epoch takes each new image
SEEDS = range(4)


def write_data(work: Path) -> Path:
    """Write shards of new and old images, and the file that lists them; return that file."""
    listed = work / "data.toml"
    if not listed.exists():
        write_houses(work / "photos")
        build_shards(work / "photos", work / "new")
        write_world("shapes", work / "old", OLD_SCENES)
        roles = {"generation": f', {{path = "new/generation", repeat = {REPEAT}}}'}
        lines = [
            f'{role} = ["old/{role}"{roles.get(role, "")}]'
            for role in ("generation", "understanding", "text")
        ]
        listed.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return listed


def tuned(work: Path, way: str, data: Path) -> tuple[Path, float]:
    """Train; return the checkpoint and the seconds that it took."""
    began = time.monotonic()
    how = How(settings=Settings(rows_at_once=32), lora=WAYS[way])
    sources = Sources(checkpoint=START)
    made = train_recipe(load_recipe(RECIPE), data, work / way, sources, how, print)
    return made, time.monotonic() - began


def scores(bundle: Path, count: int) -> dict[str, Any]:
    """Return how often houses are drawn, and the scores of what the model knew."""
    session = Session(open_bundle(bundle))
    right = [
        is_house(draw(session, ImageRequest(prompt=f"a {colour} house", seed=seed)).pixels, colour)
        for colour in COLOURS
        for seed in SEEDS
    ]
    old = score(
        EXAM,
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


def measured(work: Path, count: int) -> dict[str, Any]:
    """Return the scores before, and after each way of training."""
    data = write_data(work)
    before = work / "before"
    export(START, before)
    found: dict[str, Any] = {"before": scores(before, count)}
    for way in WAYS:
        checkpoint, seconds = tuned(work, way, data)
        export(checkpoint, work / f"{way}-bundle")
        found[way] = scores(work / f"{way}-bundle", count) | {"training_s": round(seconds, 1)}
    return found


def export(checkpoint: Path, bundle: Path) -> None:
    """Compile a checkpoint to a bundle."""
    loaded = load_checkpoint(checkpoint)
    export_bundle(loaded, bundle, max_length=256, report=lambda line: None, replace=True)


def main() -> None:
    """Parse the command line, measure, print and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--count", type=int, default=600, help="old prompts, and questions")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    machine = describe()
    found = measured(options.work, options.count)
    print(found, flush=True)
    if options.record:
        append_record(options.record, {**program(SCHEMA), **machine, **found})


if __name__ == "__main__":
    main()
