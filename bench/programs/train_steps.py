"""Take real training steps of a recipe and record what they take.

    python bench/programs/train_steps.py janus-pro-1b --data DATA --start CHECKPOINT --batch 4

A stage of the recipe runs with fewer examples per step; all else is the recipe's. The run, with its
states, is in a temporary folder of the current one and removed in the end.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from janus_edge.diagnostics.machine import describe
from janus_edge.diagnostics.records import append_record, program
from janus_edge.train.engine import Settings
from janus_edge.train.recipe import Phase, Recipe, Stage, load_recipe
from janus_edge.train.run import How, train_recipe
from janus_edge.train.start import Sources

SCHEMA = "train/1"


def shortened(recipe: Recipe, name: str, batch_size: int, steps: int) -> Recipe:
    """Return the recipe with one of its stages alone, shortened."""
    stage = next(each for each in recipe.stages if each.name == name)
    phase = Phase(steps=steps, mixture=stage.phases[-1].mixture)
    values = dict(stage) | {"batch_size": batch_size, "steps": steps, "phases": (phase,)}
    given = {name: getattr(recipe, name) for name in Recipe.model_fields}
    return Recipe(**(given | {"stages": (Stage(**values),)}))


def main() -> None:
    """Parse the command line, train, print and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--stage", default="stage1")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--lora", type=int, default=0)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    recipe = shortened(load_recipe(options.recipe), options.stage, options.batch, options.steps)
    settings = Settings(log_every=1, save_every_s=1e6)
    how = How(settings=settings, lora=options.lora, checkpointing=True)
    before, began = describe(), time.monotonic()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        run, sources = Path(folder) / "run", Sources(checkpoint=options.start)
        train_recipe(recipe, options.data, run, sources, how, print)
        lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    found = {
        "recipe": options.recipe,
        "batch_size": options.batch,
        "lora": options.lora,
        "steps": [json.loads(line) for line in lines],
        "whole_run_s": round(time.monotonic() - began, 1),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1),
    }
    print(found, flush=True)
    if options.record:
        append_record(options.record, {**program(SCHEMA), **before, **found})


if __name__ == "__main__":
    main()
