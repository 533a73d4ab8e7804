"""What a run accepts: its folder, what may not change when it goes on, what it starts from."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException

import janus_edge.train.run as run_module
import janus_edge.train.states as states
from janus_edge.model.weights import load_checkpoint, save_checkpoint
from janus_edge.runtime.errors import JanusEdgeError, OptionError, OutputError
from janus_edge.runtime.stop import Stopped
from janus_edge.train.engine import Settings
from janus_edge.train.images import Encoded
from janus_edge.train.recipe import Recipe, load_recipe
from janus_edge.train.report import Log
from janus_edge.train.run import How, train_recipe
from janus_edge.train.run_folder import claim
from janus_edge.train.start import Sources, started
from janus_edge.train.world import World
from tests.train.bench import RECIPES

WORLD = World(0, 1, torch.device("cpu"))
FACTS: dict[str, str | int] = {"data": "a", "lora": 0, "start": "c"}


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe(RECIPES / "mini.toml")


def test_a_run_goes_on_as_it_was_begun(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "pretraining").mkdir()  # put there by hand
    claim(tmp_path, recipe, FACTS, WORLD)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.json")}
    claim(tmp_path, recipe, FACTS, WORLD)
    assert before == {path: path.read_bytes() for path in tmp_path.glob("*.json")}
    for facts, says in (
        ({"data": "b", "lora": 0}, "was begun with other data; give the same"),
        ({"data": "a", "lora": 16}, "was begun with --lora 0; give the same"),
        (FACTS | {"start": "d"}, "was begun with another --start, --language, --vision, --codec"),
    ):
        with pytest.raises(OptionError, match=says):
            claim(tmp_path, recipe, facts, WORLD)
    other = recipe.model_copy(update={"seed": recipe.seed + 1})
    with pytest.raises(OptionError, match="was begun with another recipe"):
        claim(tmp_path, other, FACTS, WORLD)
    (tmp_path / "run.json").write_text('{"data": "a", "lora": 0}', encoding="utf-8")  # of another
    claim(tmp_path, recipe, FACTS, WORLD)
    (tmp_path / "run.json").unlink()  # of a version that wrote none
    claim(tmp_path, recipe, {"data": "b", "lora": 2}, WORLD)
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["lora"] == 2


def test_samples_are_named_once(tmp_path: Path) -> None:
    """Also by the process that goes on, and by names that are not UTF-8."""
    names = {"a/0": "cut", "b/\udce9": "no image"}
    for _ in range(2):
        Log(tmp_path, WORLD, lambda line: None).skip(names)
    lines = (tmp_path / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line.replace("\\udce9", "?"))["name"] for line in lines] == ["a/0", "b/?"]


def test_an_image_fits_a_row(recipe: Recipe, dataset: Path, starts: Any, tmp_path: Path) -> None:
    short = recipe.model_copy(update={"context": 17})
    how, sources = How(settings=Settings(bf16=False)), Sources(checkpoint=starts["mini"])
    with pytest.raises(OptionError, match="context is 17, and an image alone takes 16 tokens"):
        train_recipe(short, dataset, tmp_path, sources, how, print)


def test_a_run_that_encodes_no_image_keeps_the_samples_it_had(
    recipe: Recipe, dataset: Path, starts: Any, tmp_path: Path
) -> None:
    raw = recipe.model_dump()
    stage = raw["stages"][0] | {"steps": 2, "batch_size": 1, "warmup_steps": 0}
    stage["phases"] = ({"steps": 2, "mixture": {"text": 100, "generation": 1}},)
    stage["train"] = ("language_model",)
    rare = Recipe.model_validate(raw | {"stages": (stage,)})
    how = How(settings=Settings(bf16=False))
    made = train_recipe(rare, dataset, tmp_path, Sources(checkpoint=starts["mini"]), how, print)
    expected = load_checkpoint(starts["mini"]).samples
    found = load_checkpoint(made).samples
    assert (found is None) == (expected is None)


def test_codes_that_cannot_be_written_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Encoded(tmp_path / "a.bin", 3, (4,), "int32")
    kept.put(1, np.arange(4))
    assert kept.has(1) and not kept.has(0) and kept.get(1).tolist() == [0, 1, 2, 3]

    def full(*words: Any, **settings: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OutputError, match=r"a\.bin: No space left on device; make room there"):
        kept.put(2, np.arange(4))


def test_a_folder_of_others_is_left_alone(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("mine\n", encoding="utf-8")
    with pytest.raises(OptionError, match=r"holds log.jsonl and no run of ours; give a new folder"):
        claim(tmp_path, recipe, FACTS, WORLD)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    assert (tmp_path / "log.jsonl").read_text(encoding="utf-8") == "mine\n"


@pytest.mark.parametrize("name", ["language", "vision", "codec"])
def test_a_checkpoint_has_all(
    recipe: Recipe, starts: dict[str, Path], tmp_path: Path, name: str
) -> None:
    sources = Sources(**{"checkpoint": starts["mini"], name: tmp_path})
    with pytest.raises(OptionError, match=f"--start gives the whole model; leave --{name} out"):
        started(recipe, sources, ())


def test_a_recipe_says_how_is_drawn(
    recipe: Recipe, starts: dict[str, Path], tmp_path: Path
) -> None:
    """Its settings replace those of the checkpoint; the others stay."""
    checkpoint = load_checkpoint(starts["mini"])
    own = checkpoint.sampling | {"guidance_scale": 3.0, "temperature": 0.5}
    (tmp_path / "start").mkdir()
    saved = dataclasses.replace(checkpoint, sampling=own)
    save_checkpoint(saved, tmp_path / "start", torch.float16)
    changed = recipe.model_copy(update={"sampling": {"guidance_scale": 1.5}})
    found = started(changed, Sources(checkpoint=tmp_path / "start"), ()).sampling
    assert (found["guidance_scale"], found["temperature"]) == (1.5, 0.5)


def test_bf16_is_not_taken_where_it_is_slow(
    monkeypatch: pytest.MonkeyPatch,
    recipe: Recipe,
    dataset: Path,
    starts: dict[str, Path],
    tmp_path: Path,
) -> None:
    """FSDP would give bf16 weights to layers that compute in fp32."""
    seen: list[bool] = []

    def prepare(*_args: Any, bf16: bool, **_options: Any) -> None:
        seen.append(bf16)
        raise KeyError

    monkeypatch.setattr(run_module, "prepare", prepare)
    for fast in (True, False):
        monkeypatch.setattr(run_module, "is_bf16_fast", lambda _device, fast=fast: fast)
        given = How(settings=Settings(bf16=True))
        with pytest.raises(KeyError):
            train_recipe(
                recipe,
                dataset,
                tmp_path / "run",
                Sources(checkpoint=starts["mini"]),
                given,
                lambda line: None,
            )
    assert seen == [True, False]


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (Stopped(2), Stopped),
        (OSError(28, "No space left on device"), OSError),
        (RuntimeError("cut\nhere"), JanusEdgeError),
    ],
)
def test_a_save_that_fails_says_what_stopped_it(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cause: BaseException,
    kind: type[BaseException],
) -> None:
    """PyTorch puts everything, Ctrl-C too, into an exception of its own."""

    def fails(*_args: Any, **_options: Any) -> None:
        raise CheckpointException("save", {0: (cause, None)})  # type: ignore[dict-item]

    monkeypatch.setattr(states, "dcp_save", fails)
    with pytest.raises(kind) as error:
        states.save(tmp_path / "states", ["s"], (0, 1), {}, WORLD)
    assert "\n" not in str(error.value)
    assert states.saved(tmp_path / "states", ["s"]) == []


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    model, path = torch.nn.Linear(2, 2), tmp_path / "s-000000001"
    states.save(tmp_path, ["s"], (0, 1), states.content_of(model, (), {}), WORLD)
    (place,) = states.saved(tmp_path, ["s"])
    states.resume(place, model, (), {})
    for file in path.glob("*.distcp"):
        file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(states.TrainingError, match="this state cannot be read") as error:
        states.resume(place, model, (), {})
    assert "\n" not in str(error.value) and str(path) in str(error.value)
