"""A dataset of shape scenes, and random checkpoints that the mini recipes train on."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from janus_edge.model.janus import Janus
from janus_edge.model.janusflow import JanusFlow
from janus_edge.model.weights import Checkpoint, save_checkpoint
from janus_edge.runtime.manifest import REFERENCE
from janus_edge.shapes.captions import caption
from janus_edge.shapes.questions import TOPICS, question
from janus_edge.shapes.scenes import Scene, render, scenes
from janus_edge.train.initial import initialise, initialise_flow
from janus_edge.train.text import TEMPLATE, make_tokenizer
from tests.conftest import RANDOM, RANDOM_FLOW, RANDOM_VAE
from tests.train.bench import Bench

COUNTS = {"generation": 60, "class_prompts": 40, "understanding": 60, "text": 50}
NAMES = ("mini", "mini-flow")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of shape scenes by role; one image of generation is cut."""
    folder = tmp_path_factory.mktemp("dataset")
    rng = np.random.default_rng(0)
    for role, count in COUNTS.items():
        (folder / role).mkdir()
        with webdataset.TarWriter(str(folder / role / "0.tar")) as shard:
            for i, scene in enumerate(islice(scenes("train", 1000), count)):
                shard.write({"__key__": f"{i:04d}"} | dict(_members(role, scene, rng, i == 7)))
    return folder


def _members(
    role: str, scene: Scene, rng: np.random.Generator, is_cut: bool
) -> Iterator[tuple[str, str | bytes]]:
    """Yield the members of a sample."""
    if role != "text":
        file = io.BytesIO()
        Image.fromarray(render(scene)).save(file, "PNG")
        png = file.getvalue()
        yield "png", png[:-100] if is_cut and role == "generation" else png
    if role in ("generation", "class_prompts"):
        yield "txt", caption(scene, rng).text
    else:
        found = [q for topic in TOPICS if (q := question(scene, rng, topic)) is not None][:2]
        turns = [{"user": q.text, "assistant": q.answer} for q in found]
        yield "json", json.dumps({"turns": turns}).encode()


@pytest.fixture(scope="session")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random checkpoint of each mini recipe, in fp32."""
    folder = tmp_path_factory.mktemp("starts")
    torch.manual_seed(1)
    janus, flow = Janus(RANDOM), JanusFlow(RANDOM_FLOW, RANDOM_VAE)
    initialise(janus)
    initialise_flow(flow)
    tokenizer_json = make_tokenizer(RANDOM.language.vocab_size, 300).to_str()
    for name, model, family in zip(NAMES, (janus, flow), ("janus", "janusflow"), strict=True):
        checkpoint = Checkpoint(
            model=model,
            tokenizer_json=tokenizer_json,
            prompt=dataclasses.asdict(TEMPLATE),
            sampling=REFERENCE[family].model_dump(),
        )
        save_checkpoint(checkpoint, folder / name, torch.float32)
    return {name: folder / name for name in NAMES}


@pytest.fixture(params=NAMES)
def bench(
    request: pytest.FixtureRequest, starts: dict[str, Path], dataset: Path, tmp_path: Path
) -> Bench:
    return Bench(request.param, starts[request.param], dataset, tmp_path)
