"""Samples during a run: as the exported model draws and answers; the run stays the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PilImage

from janus_edge.data.build import build_shards
from janus_edge.data.source import open_source
from janus_edge.evals.scoring import answer as answer_of
from janus_edge.evals.scoring import draw as draw_of
from janus_edge.export.bundle.writer import export_bundle
from janus_edge.model.weights import load_checkpoint
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.prompt import PromptEncoder
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session
from janus_edge.train.engine import Settings
from janus_edge.train.recipe import load_recipe
from janus_edge.train.run import How, train_recipe
from janus_edge.train.samples import answer, draw, probe_of
from janus_edge.train.start import Sources
from janus_edge.train.summary import write_report
from tests.data.shards import image_file
from tests.train.bench import RECIPES
from tests.train.conftest import NAMES

CAPTIONS = ("a red star", "three small blue circles")


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_what_the_bundle_gives(
    name: str, starts: dict[str, Path], dataset: Path, tmp_path: Path
) -> None:
    recipe, checkpoint = load_recipe(RECIPES / f"{name}.toml"), load_checkpoint(starts[name])
    encoder = PromptEncoder.load(checkpoint.tokenizer_json, recipe.template)
    model = checkpoint.model.eval()
    export_bundle(checkpoint, tmp_path / "b", max_length=96, report=lambda line: None)
    session = Session(open_bundle(tmp_path / "b"), num_threads=1)
    probe = probe_of(recipe, open_source(dataset).roles, encoder)
    assert 6 <= len(probe.captions) <= 8 and len(probe.questions) == 4
    for image, question, _ in probe.questions:
        said = answer(model, encoder, image, question).rstrip("\ufffd")  # 32 tokens of it
        assert said and answer_of(session, image, question).startswith(said)
    if name == "mini":  # a flow's noise is another
        settings = {"guidance_scale": 2.0, "temperature": 1e-4}  # the likeliest code
        for caption, drawn in zip(CAPTIONS, draw(model, encoder, CAPTIONS, settings), strict=True):
            wanted = draw_of(session, ImageRequest(prompt=caption, **settings)).pixels
            assert np.abs(drawn.astype(int) - wanted).max() <= 2


def test_a_sample_that_no_prompt_takes_is_not_drawn(
    starts: dict[str, Path], tmp_path: Path
) -> None:
    """A step leaves it out, too; equal captions are drawn once."""
    recipe, checkpoint = load_recipe(RECIPES / "mini.toml"), load_checkpoint(starts["mini"])
    encoder = PromptEncoder.load(checkpoint.tokenizer_json, recipe.template)
    (tmp_path / "photos").mkdir()
    texts = ["a cat", "a cat", "a <image_placeholder>", "a cat " * 200, "a dog"]
    for number, text in enumerate(texts):
        (tmp_path / f"photos/{number}.txt").write_text(text, encoding="utf-8")
        (tmp_path / f"photos/{number}.png").write_bytes(image_file())
    rows = [
        {"image": f"photos/{number}.png", "question": text, "answer": "yes"}
        for number, text in enumerate(texts)
    ]
    asked = "\n".join(map(json.dumps, rows))
    (tmp_path / "asked.jsonl").write_text(asked, encoding="utf-8")
    for source in ("photos", "asked.jsonl"):
        build_shards(tmp_path / source, tmp_path / "data")
    probe = probe_of(recipe, open_source(tmp_path / "data").roles, encoder)
    assert probe.captions == ("a cat", "a dog")
    assert [question for _, question, _ in probe.questions] == ["a cat", "a cat", "a dog"]


def test_samples_change_nothing(dataset: Path, starts: dict[str, Path], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe = load_recipe(RECIPES / "mini.toml")
    found = []
    for every in (0, 5):
        settings = Settings(bf16=False, save_every_s=1000, samples_every=every)
        folder, said = tmp_path / str(every), []
        sources = Sources(checkpoint=starts["mini"])
        made = train_recipe(recipe, dataset, folder, sources, How(settings=settings), said.append)
        found.append((made / "model.safetensors").read_bytes())
    assert found[0] == found[1]
    names = sorted(path.name for path in (folder / "samples").iterdir())
    steps = {"stage1": (5, 10), "stage2": (5, 10, 15, 20, 25), "stage3": (5, 10, 15)}
    stems = [f"{stage}-{step:09d}" for stage, each in steps.items() for step in each]
    assert names == sorted(f"{stem}.{end}" for stem in stems for end in ("json", "png"))
    last = json.loads((folder / "samples/stage3-000000015.json").read_text(encoding="utf-8"))
    with PilImage.open(folder / "samples/stage3-000000015.png") as sheet:
        assert sheet.size == (32 * len(last["captions"]), 32)
    assert {tuple(each) for each in last["answers"]} == {("question", "answer", "right")}
    assert any("8 images and 4 answers" in line or "7 images" in line for line in said)


def test_the_report(dataset: Path, starts: dict[str, Path], tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / "mini.toml")
    settings = Settings(bf16=False, save_every_s=1000, samples_every=1000, log_every=1)
    sources = Sources(checkpoint=starts["mini"])
    train_recipe(recipe, dataset, tmp_path, sources, How(settings=settings), lambda line: None)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| stage")]
    assert [row.split("|")[1].strip() for row in rows] == ["stage", "stage1", "stage2", "stage3"]
    assert [row.split("|")[3].strip() for row in rows[1:]] == ["60", "175", "75"]
    assert "1 samples, named with the reason" in text and "samples/stage3-000000015.png" in text
    with PilImage.open(tmp_path / "report.png") as plot:
        assert plot.width > 800
    (tmp_path / "log.jsonl").write_text("", encoding="utf-8")
    small = load_recipe("tiny-janus").model_copy(update={"stages": recipe.stages})
    write_report(tmp_path, small)  # of an empty log, too
    assert "## What differs from the paper" in (tmp_path / "report.md").read_text(encoding="utf-8")
