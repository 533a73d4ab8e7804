"""Teach the default bundle's checkpoint something new, in full and by LoRA; score before and after.

    python bench/programs/fine_tuning.py WORK --record bench/records/fine_tuning.jsonl

It scores what is new (houses, ``bench/programs/houses.py``) and what the model knew (``janus-edge
eval shapes``). So that the model keeps what it knew, it trains on its own drawings and answers
beside the new images. WORK is made; runs that are there go on.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from janus_edge.batch.items import read_items
from janus_edge.batch.results import Results
from janus_edge.batch.run import outcomes
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
from janus_edge.shapes.captions import caption
from janus_edge.shapes.questions import question
from janus_edge.shapes.scenes import COLOURS, scenes
from janus_edge.train.engine import Settings
from janus_edge.train.recipe import load_recipe
from janus_edge.train.run import How, train_recipe
from janus_edge.train.start import Sources

SCHEMA = "fine-tuning/1"
START = Path("checkpoints/tiny-janus")
RECIPE = "tiny-janus-tune"
WAYS = {"full": 0, "lora": 16}  # name and rank
OLD_IMAGES = 3000  # that the model draws itself, so that it keeps what it knows
QUESTIONS = 2  # that it answers about each
REPEAT = 6  # how often an epoch takes each new image
SEEDS = range(4)


def write_data(work: Path, bundle: Path) -> Path:
    """Write shards of new and old examples, and the file that lists them; return that file."""
    listed = work / "data.toml"
    if not listed.exists():
        write_houses(work / "photos")
        build_shards(work / "photos", work / "new")
        drawn, said = replayed(work, Session(open_bundle(bundle)))
        build_shards(drawn, work / "old")
        build_shards(said, work / "old", role="understanding")
        generation = f'["old/generation", {{path = "new/generation", repeat = {REPEAT}}}]'
        lines = f'generation = {generation}\nunderstanding = ["old/understanding"]\n'
        listed.write_text(lines, encoding="utf-8")
    return listed


def replayed(work: Path, session: Session) -> tuple[Path, Path]:
    """Let the model draw and answer what it knows; return both files of results."""
    rng = np.random.default_rng(0)
    drawings, questions = [], []
    for number, scene in enumerate(islice(scenes("train", held_out=False), OLD_IMAGES), 1):
        drawings.append({"prompt": caption(scene, rng).text, "seed": number})
        for _ in range(QUESTIONS):
            if (asked := question(scene, rng)) is not None:
                path = f"drawn/images/{number:0{len(str(OLD_IMAGES))}}.png"
                questions.append({"question": asked.text, "images": [path]})
    found = []
    for name, values in (("drawn", drawings), ("said", questions)):
        source = work / f"{name}.jsonl"
        source.write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")
        items = read_items(source)
        results = Results(work / name, items, {"model": session.bundle.sha256})
        results.fill(items, partial(outcomes, session))
        found.append(work / name / "results.jsonl")
    return found[0], found[1]


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


def measured(work: Path, count: int, ways: list[str]) -> dict[str, Any]:
    """Return the scores before, and after each way of training."""
    before = work / "before"
    if not before.exists():
        export(START, before)
    data = write_data(work, before)
    found: dict[str, Any] = {"before": scores(before, count)}
    for way in ways:
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
    parser.add_argument("--only", nargs="+", choices=tuple(WAYS), default=list(WAYS))
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    machine = describe()
    found = measured(options.work, options.count, options.only)
    print(found, flush=True)
    if options.record:
        append_record(options.record, {**program(SCHEMA), **machine, **found})


if __name__ == "__main__":
    main()
