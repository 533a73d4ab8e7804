"""Train a small Janus in variants with equal steps and data, and score each.

    janus-edge data world shapes DATA --scenes 60000
    python bench/programs/ablations.py DATA RUNS --codec checkpoints/tiny-janus --record FILE

``decoupled`` sees through a vision encoder that learned from captions; ``shared`` sees the codes
that it draws with; the others have one task alone. Runs are kept in RUNS: the same command goes on
where it was stopped, and adds a line per run that the record does not have yet.

Source of the comparison: arXiv 2410.13848, table 5.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from janus_edge.diagnostics.machine import describe
from janus_edge.diagnostics.records import append_record, program, read_records
from janus_edge.evals.scoring import run as score
from janus_edge.evals.shapes import EXAM
from janus_edge.export.bundle.writer import export_bundle
from janus_edge.model.weights import load_checkpoint
from janus_edge.train.engine import Settings
from janus_edge.train.recipe import Phase, Recipe, Stage, load_recipe
from janus_edge.train.run import How, train_recipe
from janus_edge.train.start import Sources
from janus_edge.train.summary import write_report

SCHEMA = "ablations/1"
SEEDS = (0, 1, 2)
TASKS = ("drawing", "answering")
STEPS = {"stage1": 40, "stage2": 700, "stage3": 300}
LANGUAGE = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4}
LANGUAGE |= {"num_attention_heads": 3, "num_key_value_heads": 3}


def base(seed: int) -> dict[str, Any]:
    """Return the values of the small recipe that all variants share: tiny-janus's, smaller."""
    recipe = load_recipe("tiny-janus")
    values = {name: getattr(recipe, name) for name in Recipe.model_fields}
    values |= {"seed": seed, "context": 128}
    language = recipe.model["language"] | LANGUAGE
    values["model"] = recipe.model | {"language": language}
    values["model"]["gen_head"] = {"image_token_embed": LANGUAGE["hidden_size"]}
    values["stages"] = tuple(shortened(stage) for stage in recipe.stages)
    assert recipe.pretraining is not None and recipe.pretraining.vision is not None
    vision = recipe.pretraining.vision.model_copy(update={"steps": 800})
    values["pretraining"] = recipe.pretraining.model_copy(update={"codec": None, "vision": vision})
    return values


def shortened(stage: Stage) -> Stage:
    """Return a stage with the comparison's number of steps."""
    steps = STEPS[stage.name]
    phase = Phase(steps=steps, mixture=stage.phases[-1].mixture)
    return Stage(**(dict(stage) | {"steps": steps, "phases": (phase,)}))


def decoupled(values: dict[str, Any]) -> dict[str, Any]:
    """Two encoders: the papers' way."""
    return values


def shared(values: dict[str, Any]) -> dict[str, Any]:
    """One encoder: the codes that images are drawn with are also what is seen."""
    book = values["model"]["codebook"]
    stride = 2 ** (len(book["encoder_ch_mult"]) - 1)
    vision = values["model"]["vision"] | {"encoder": "codes", "width": book["dim"], "heads": 1}
    model = values["model"] | {"vision": vision | {"patch_size": stride}}
    return values | {"model": model, "pretraining": None}


def only(role: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what leaves one task alone, with as many examples of it per step as in the mixture."""

    def change(values: dict[str, Any]) -> dict[str, Any]:
        stages = []
        for stage in values["stages"]:
            mixture = stage.phases[0].mixture
            count = max(1, round(stage.batch_size * mixture[role] / sum(mixture.values())))
            phase = Phase(steps=stage.steps, mixture={role: 1})
            stages.append(Stage(**(dict(stage) | {"batch_size": count, "phases": (phase,)})))
        return values | {"stages": tuple(stages)}

    return change


VARIANTS = {
    "decoupled": decoupled,
    "shared": shared,
    "understanding-only": only("understanding"),
    "generation-only": only("generation"),
}


def trained(variant: str, seed: int, data: Path, runs: Path, codec: Path, rows: int) -> Path:
    """Train a variant, or go on with it; return its checkpoint.

    All seeds see through the vision encoder that the first one trained.
    """
    recipe, folder = Recipe(**VARIANTS[variant](base(seed))), runs / f"{variant}-{seed}"
    kept, own = runs / "vision.safetensors", folder / "pretraining/vision.safetensors"
    if recipe.pretraining is not None and kept.exists() and not own.exists():
        own.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(kept, own)
    settings = Settings(rows_at_once=rows, log_every=50)
    made = train_recipe(recipe, data, folder, Sources(codec=codec), How(settings=settings), print)
    if own.exists() and not kept.exists():
        shutil.copy(own, kept)
    write_report(folder, recipe)
    return made


def scores(checkpoint: Path, variant: str, count: int) -> dict[str, Any]:
    """Return the scores of both tasks, drawing by GenEval's rule; None for one not learned."""
    bundle = checkpoint.parent / "bundle"
    loaded = load_checkpoint(checkpoint)
    export_bundle(loaded, bundle, max_length=256, report=lambda line: None, replace=True)
    found = score(
        EXAM,
        model=str(bundle),
        num_prompts=count,
        num_questions=count,
        split="test",
        settings={},
        record=None,
        sheet=checkpoint.parent / "sheet.png",
        report=lambda line: None,
    )
    draws, answers = variant != "understanding-only", variant != "generation-only"
    return {
        "drawing": found["geneval"] if draws else None,
        "answering": found["answering"] if answers else None,
    }


def main() -> None:
    """Parse the command line; train, score and record what is not recorded yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS)[:2])
    parser.add_argument("--count", type=int, default=300, help="prompts, and questions")
    parser.add_argument("--rows", type=int, default=40, help="rows at once")
    parser.add_argument("--record", type=Path, required=True)
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    before = read_records(options.record) if options.record.exists() else []
    done = {(each.get("variant"), each.get("seed")) for each in before}
    for seed in SEEDS:
        for variant in options.only:
            if (variant, seed) in done:
                continue
            machine, began = describe(), time.monotonic()
            given = (options.data, options.runs, options.codec, options.rows)
            checkpoint = trained(variant, seed, *given)
            found = {"variant": variant, "seed": seed, "steps": STEPS}
            found |= scores(checkpoint, variant, options.count)
            found["seconds"] = round(time.monotonic() - began, 1)
            append_record(options.record, {**program(SCHEMA), **machine, **found})
            overall = {name: found[name] and found[name]["overall"] for name in TASKS}
            print(variant, seed, overall, flush=True)


if __name__ == "__main__":
    main()
