"""Recipes hold the papers' numbers, fit the published models, and refuse what they do not know."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from janus_edge.model.published import read_config
from janus_edge.runtime.errors import OptionError
from janus_edge.shapes import scenes as shapes
from janus_edge.things import scenes as things
from janus_edge.train.adapters import add_adapters
from janus_edge.train.dry_run import bytes_per_gpu, lines_of, num_trained
from janus_edge.train.mixing import shares_at
from janus_edge.train.recipe import ROLES, Phase, Recipe, Stage, load_recipe, recipe_names
from janus_edge.train.start import on_meta
from tests.train.bench import RECIPES

PUBLISHED = Path(__file__).resolve().parent.parent / "published"
CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"

# Rate, warm-up, steps, batch, weight decay of each stage
# (arXiv 2410.13848, 2501.17811, 2411.07975).
PAPERS = {
    "janus-1.3b": [
        (1e-3, 300, 10_000, 256, 0.0),
        (1e-4, 5000, 180_000, 512, 0.0),
        (2e-5, 0, 24_000, 256, 0.1),
    ],
    "janus-pro-1b": [
        (1e-3, 600, 20_000, 256, 0.0),
        (1e-4, 5000, 360_000, 512, 0.0),
        (4e-5, 0, 80_000, 128, 0.0),
    ],
    "janus-pro-7b": [
        (1e-3, 600, 20_000, 256, 0.0),
        (1e-4, 5000, 360_000, 512, 0.0),
        (4e-5, 0, 40_000, 128, 0.0),
    ],
    "janusflow-1.3b": [
        (1e-4, 2000, 10_000, 512, 0.0),
        (1e-4, 2000, 390_000, 512, 0.0),
        (2e-5, 1000, 26_000, 256, 0.0),
    ],
}
# Understanding : text : drawing, in each phase of each stage.
RATIOS = {
    "janus-1.3b": [[(1, 0, 1)], [(2, 3, 5), (2, 3, 5)], [(7, 3, 10)]],
    "janus-pro-1b": [[(1, 0, 3)], [(2, 3, 5)], [(5, 1, 4)]],
    "janus-pro-7b": [[(1, 0, 3)], [(2, 3, 5)], [(5, 1, 4)]],
    "janusflow-1.3b": [[(50, 0, 50)], [(30, 20, 50), (14, 6, 80)], [(21, 9, 70)]],
}


# Small models: the world that they learn, and the checkpoint that ships.
SMALL = {
    "tiny-janus": (shapes.BACKGROUNDS, "tiny-janus"),
    "tiny-flow": (shapes.BACKGROUNDS, "tiny-flow"),
    "tiny-things": (things.BACKGROUNDS, "tiny-things"),
}


TUNES = ("janus-pro-1b-tune", "tiny-janus-tune", "tiny-things-tune")


def test_the_recipes_are_there() -> None:
    assert recipe_names() == sorted([*PAPERS, *SMALL, *TUNES])


@pytest.mark.parametrize("name", TUNES)
def test_a_recipe_of_fine_tuning_has_the_sizes_of_its_start(name: str) -> None:
    tune, whole = load_recipe(name), load_recipe(name.removesuffix("-tune"))
    assert tune.config == whole.config and tune.prompt == whole.prompt
    assert tune.settings == whole.settings and tune.deviations


@pytest.mark.parametrize("name", SMALL)
def test_small_recipes_say_what_they_do_otherwise(name: str) -> None:
    recipe, (backgrounds, shipped) = load_recipe(name), SMALL[name]
    assert len(recipe.deviations) >= 4
    assert recipe.dropped_conditions == 0.1
    assert ["understanding_encoder" in stage.train for stage in recipe.stages] == [0, 0, 1]
    assert ["language_model" in stage.train for stage in recipe.stages] == [0, 1, 1]
    assert recipe.pretraining is not None and recipe.pretraining.codec is not None
    codebook = getattr(recipe.config, "codebook", None)
    plain = codebook.plain if codebook else recipe.pretraining.codec.plain
    assert plain == tuple(backgrounds.values())
    raw = json.loads((CHECKPOINTS / shipped / "config.json").read_text(encoding="utf-8"))
    found = json.loads(json.dumps(recipe.config.to_dict()))  # lists for tuples
    assert found == raw["model"]
    assert all(raw["sampling"][key] == value for key, value in recipe.sampling.items())


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_numbers(name: str) -> None:
    recipe = load_recipe(name)
    found = [
        (s.learning_rate, s.warmup_steps, s.steps, s.batch_size, s.weight_decay)
        for s in recipe.stages
    ]
    assert found == PAPERS[name]
    ratios = [[_ratio(phase) for phase in stage.phases] for stage in recipe.stages]
    assert ratios == RATIOS[name]
    assert (recipe.betas, recipe.clip, recipe.dropped_conditions) == ((0.9, 0.95), 1.0, 0.1)
    assert (recipe.context, recipe.deviations) == (4096, ())
    assert ["understanding_encoder" in stage.train for stage in recipe.stages] == [0, 0, 1]
    assert ["language_model" in stage.train for stage in recipe.stages] == [0, 1, 1]
    if recipe.family == "janusflow":
        assert recipe.ema == 0.99 and recipe.repa is not None and recipe.timesteps is not None
        assert (recipe.repa.layer, recipe.repa.weight) == (6, 1.0)


def _ratio(phase: Phase) -> tuple[int, int, int]:
    drawn = sum(share for role, share in phase.mixture.items() if ROLES[role] == "draw")
    return phase.mixture["understanding"], phase.mixture.get("text", 0), drawn


@pytest.mark.parametrize("name", PAPERS)
def test_sizes_are_the_published_ones(name: str) -> None:
    config = {"janus-1.3b": "janus-pro-1b"}.get(name, name)
    raw = json.loads((PUBLISHED / f"config-{config}.json").read_text(encoding="utf-8"))
    assert load_recipe(name).config == read_config(raw)


@pytest.mark.parametrize("name", PAPERS)
def test_a_dry_run(name: str) -> None:
    lines = list(lines_of(load_recipe(name)))
    assert lines[0].startswith(name) and sum("memory per GPU" in line for line in lines) == 3


def test_counts_of_a_dry_run() -> None:
    """They are those of the published files' tensors."""
    recipe = load_recipe("janus-pro-1b")
    model = on_meta(recipe)
    shapes = json.loads((PUBLISHED / "state-dict-1b.json").read_text(encoding="utf-8"))
    sizes = {name: _size(shape) for name, shape in shapes.items()}
    heads = ("aligner.", "gen_aligner.", "gen_embed.", "gen_head.")
    first, second, _ = recipe.stages
    assert num_trained(recipe, first, model) == _sum(sizes, heads)
    assert num_trained(recipe, second, model) == _sum(sizes, (*heads, "language_model."))
    whole, eighth, single = (
        bytes_per_gpu(recipe, second, model, world, rows)
        for world, rows in ((1, 8), (8, 16), (8, 8))
    )
    assert whole > 16 * 1.7e9 and eighth < whole / 2
    trained = num_trained(recipe, second, model)  # its gradients are whole where they accumulate
    assert 0 < eighth - single < 4 * trained and eighth > 4 * trained + whole / 8


def test_a_dry_run_with_adapters() -> None:
    """Matrices of the layers are frozen; beside each stand rank x (inputs + outputs) weights."""
    recipe = load_recipe("janus-pro-1b")
    lines = list(lines_of(recipe, lora=16))
    layer = 4 * 16 * 2 * 2048 + 3 * 16 * (2048 + 5632)
    model = on_meta(recipe)
    heads = num_trained(recipe, recipe.stages[0], model)
    counted = f"{(heads + 24 * layer) / 1e6:.1f} M parameters learn"
    assert counted in next(line for line in lines if line.startswith("stage2"))
    full, adapted = (_memory(list(found)) for found in (lines_of(recipe), lines))
    assert adapted[1] < full[1] / 2  # stage 2, one GPU


def test_a_dry_run_counts_the_mean_of_the_weights() -> None:
    recipe = load_recipe("tiny-things-tune")
    without = recipe.model_copy(update={"ema": None})
    assert recipe.ema is not None

    def bytes_of(chosen: Recipe, lora: int) -> float:
        model = on_meta(chosen)
        if lora:
            add_adapters(model, lora)
        return bytes_per_gpu(chosen, chosen.stages[0], model, 1, 1)

    assert bytes_of(recipe, 0) > bytes_of(without, 0)
    assert bytes_of(recipe, 4) == bytes_of(without, 4)  # adapters have none


def _memory(lines: list[str]) -> list[float]:
    found = (re.search(r"memory per GPU.* 1 GPU ([0-9.]+)", line) for line in lines)
    return [float(each[1]) for each in found if each]


def _size(shape: list[int]) -> int:
    size = 1
    for each in shape:
        size *= each
    return size


def _sum(sizes: dict[str, int], starts: tuple[str, ...]) -> int:
    return sum(size for name, size in sizes.items() if name.startswith(starts))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 3", "sed = 3", "sed: unknown key"),
        ("seed = 3\n", "", "seed: this key is missing"),
        ("seed = 3", 'seed = "3"', "seed: Input should be a valid integer"),
        ("batch_size = 6", "batch_size = 0", "stages[0].batch_size: Input should be greater"),
        ("steps = 9", "steps = 8", "stages[1]: stage stage2 has 25 steps, its phases 24"),
        (" text = 1", " txt = 1", "stages[1].phases[0]: mixture has txt; its names are under"),
        ('"image_head"', '"head"', "stage stage1 trains head; janus has understanding_enc"),
        ('name = "stage2"', 'name = "stage1"', "stages need names of their own"),
        ("width = 24", "width = 25", "width 25 is no multiple of heads 2"),
        ("heads = 2", "head = 2", 'section "vision" has unknown keys: head'),
        ("[prompt]", "[vae]\nx = 1\n\n[prompt]", "vae goes with the family janusflow"),
        (
            "[prompt]",
            "[pretraining.codec]\nsteps = 1\nbatch_size = 1\nlearning_rate = 0.1\n"
            "plain = [[0, 0, 0]]\n\n[prompt]",
            "pretraining.codec.plain is a VAE's; a Janus has model.codebook.plain",
        ),
        (
            "[prompt]",
            '[pretraining.vision]\nlearns_from = "words"\nsteps = 1\nbatch_size = 1\n'
            "learning_rate = 0.1\n\n[prompt]",
            "pretraining.vision.learns_from: Input should be 'captions' or 'boxes'",
        ),
        ('family = "janus"', "family = [", "no valid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (RECIPES / "mini.toml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "r.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(OptionError) as error:
        load_recipe(path)
    assert message in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_such_recipe() -> None:
    with pytest.raises(OptionError, match=r"give a TOML file, or one of janus-1\.3b"):
        load_recipe("janus-2b")


def test_rates() -> None:
    stage = _stage(schedule="cosine", decay_from=0.5, warmup_steps=10)
    rates = [stage.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[50] == 1.0
    assert rates[75] == pytest.approx(0.5) and 0 < rates[99] < 0.01
    assert _stage(warmup_steps=0).rate_at(0) == _stage(warmup_steps=0).rate_at(99) == 1.0


def _stage(**values: object) -> Stage:
    phases = (Phase(steps=60, mixture={"understanding": 3, "generation": 4}),)
    phases += (Phase(steps=40, mixture={"text": 1, "generation": 2}),)
    base = {"name": "s", "steps": 100, "batch_size": 5, "learning_rate": 1.0, "train": ("x",)}
    return Stage(**(base | {"phases": phases} | values))  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 16, 33])
def test_mixtures(batch_size: int) -> None:
    """Each step has a whole batch, steps follow each other without gaps, the ratio is exact."""
    stage = _stage(batch_size=batch_size)
    taken: dict[str, int] = {}
    for step in range(stage.steps):
        shares = shares_at(stage, step)
        assert sum(share.count for share in shares) == batch_size
        for share in shares:
            assert share.start == taken.get(share.role, 0) and share.count >= 0
            taken[share.role] = share.start + share.count
        if step == 55:  # eight whole periods of seven steps
            assert taken == {"understanding": 24 * batch_size, "generation": 32 * batch_size}
    assert taken["text"] == pytest.approx(40 * batch_size / 3, abs=1)
    with pytest.raises(ValueError, match="no step 100"):
        shares_at(stage, 100)
