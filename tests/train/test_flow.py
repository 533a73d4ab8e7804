"""JanusFlow's training: what its rows hold, what its losses are, what is averaged."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from janus_edge.model.config import FlowConfig, JanusFlowConfig, LanguageConfig, VisionConfig
from janus_edge.model.janusflow import JanusFlow, unconditional_rows
from janus_edge.model.vae import VAEConfig
from janus_edge.model.weights import Checkpoint, save_checkpoint
from janus_edge.runtime.prompt import PromptEncoder
from janus_edge.shapes.captions import caption
from janus_edge.train import flow
from janus_edge.train.config import TINY_FLOW
from janus_edge.train.data import training_scenes
from janus_edge.train.flow import (
    FLOW_STAGES,
    FlowStage,
    Prompts,
    Trainee,
    flow_loss,
    initialise_flow,
    prompts,
)
from janus_edge.train.loop import run_stage
from janus_edge.train.small import FLOW_SAMPLING, make_flow
from janus_edge.train.text import TEMPLATE, make_tokenizer
from janus_edge.train.vae import TINY_VAE

CONFIG = JanusFlowConfig(
    language=LanguageConfig(
        vocab_size=456,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    ),
    vision=VisionConfig(image_size=64, patch_size=8, width=16, layers=1, heads=2),
    flow=FlowConfig(channels=8),
)
AUTOENCODER = VAEConfig(
    latent_channels=4,
    block_out_channels=(4, 4, 8),
    layers_per_block=1,
    norm_num_groups=2,
    scaling_factor=1.0,
)
STAGE = FlowStage(
    name="mini",
    number=3,
    num_steps=30,
    mixture=(2, 1, 6),
    batch_size=9,
    learning_rate=1e-2,
    questions_a_picture=2,
    repa_layer=1,
    trainable=("model.vision_gen_", "model.language_model.", "projector."),
)


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return PromptEncoder.load(make_tokenizer(456, 500).to_str(), TEMPLATE)


def make_trainee() -> Trainee:
    torch.manual_seed(0)
    model = JanusFlow(CONFIG, AUTOENCODER)
    initialise_flow(model)
    return Trainee(model, decay=0.5)


def test_prompts_end_together_and_some_are_dropped(encoder: PromptEncoder) -> None:
    batch = training_scenes(1, 0, 200)
    rng = np.random.default_rng(0)
    asked = prompts([caption(scene, rng) for scene in batch], rng, encoder, num_tokens=4)
    longest, dropped = asked.ids_BP.shape[1], 0
    for ids, seen, positions in zip(asked.ids_BP, asked.seen_BP, asked.positions_BT, strict=True):
        start = int(torch.nonzero(seen)[0])
        assert ids[start] == encoder.ids["bos"] and not seen[:start].any()
        assert positions[start:].tolist() == list(range(longest - start + 1 + 4))
        assert encoder.ids["begin_of_image"] not in ids
        rest_is_seen = bool(seen[start + 1 :].all())
        assert rest_is_seen or not seen[start + 1 :].any()
        assert (ids[start + 1 :] == encoder.ids["pad"]).all() == (not rest_is_seen)
        dropped += not rest_is_seen
    assert 8 <= dropped <= 35  # a tenth


@torch.no_grad()
def test_padding_and_dropping_give_the_models_own_velocities(encoder: PromptEncoder) -> None:
    """Left padding changes nothing, and a dropped prompt is guidance's other row."""
    model, rng = make_trainee().model.eval(), np.random.default_rng(0)
    for parameter in model.vision_gen_dec_model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    long, short = (encoder.generation(text)[:-1] for text in ("three small red circles", "a star"))
    ids = torch.full((2, len(long)), encoder.ids["pad"])
    ids[0], ids[1, -len(short) :] = torch.from_numpy(long), torch.from_numpy(short)
    seen, positions = ids != encoder.ids["pad"], torch.zeros(2, len(long) + 65, dtype=torch.int64)
    seen[1, -len(short) + 1 :] = False  # dropped
    ids[1, -len(short) + 1 :] = encoder.ids["pad"]
    for row, length in ((0, len(long)), (1, len(short))):
        positions[row, len(long) - length :] = torch.arange(length + 65)
    z = torch.from_numpy(rng.standard_normal((2, 4, 16, 16), np.float32))
    t = torch.tensor([0.2, 0.7])
    asked = Prompts(ids_BP=ids, seen_BP=seen, positions_BT=positions)
    v, early = flow._velocity(model, asked, z, t, 1)
    assert early.shape == (2, 64, 32)
    first = model.velocity(model.embed_text(torch.from_numpy(long)[None]), z[:1], t[:1])
    other, visible = unconditional_rows(torch.from_numpy(short)[None], encoder.ids["pad"])
    second = model.velocity(model.embed_text(other), z[1:], t[1:], visible)
    assert torch.allclose(v, torch.cat([first, second]), atol=1e-5)


def test_an_untrained_velocity_is_zero_and_its_loss_the_targets_power(
    encoder: PromptEncoder,
) -> None:
    trainee = make_trainee()
    _, metrics = flow_loss(trainee, STAGE, encoder)(0)
    assert set(metrics) == {"velocity", "repa", "answer", "text"}
    assert 0.8 < metrics["velocity"] < 4  # noise of unit power and the latent's own
    assert 0.5 < metrics["repa"] < 1.5


def test_the_losses_go_down_and_the_mean_follows(encoder: PromptEncoder, tmp_path: Path) -> None:
    trainee = make_trainee()
    before = {name: p.clone() for name, p in trainee.model.named_parameters()}
    loss_at = flow_loss(trainee, STAGE, encoder)
    first = [loss_at(step)[1] for step in range(100, 104)]
    run_stage(trainee, STAGE, loss_at, tmp_path, after_step=trainee.update)
    last = [loss_at(step)[1] for step in range(100, 104)]
    for name in ("velocity", "repa", "answer"):
        assert sum(m[name] for m in last) < sum(m[name] for m in first), name
    moved = {n for n, p in trainee.model.named_parameters() if not torch.equal(p, before[n])}
    assert any(n.startswith("language_model.") for n in moved)
    assert not any(n.startswith(("vae.", "vision_und_")) for n in moved)
    name = "vision_gen_enc_aligner.weight"
    mean = trainee.averaged().get_parameter(name)
    now = trainee.model.get_parameter(name)
    assert not torch.equal(mean, now)
    assert F.mse_loss(mean, now) < F.mse_loss(before[name], now)


def test_a_stopped_run_keeps_its_mean(encoder: PromptEncoder, tmp_path: Path) -> None:
    short = dataclasses.replace(STAGE, num_steps=3)
    first = make_trainee()
    run_stage(first, short, flow_loss(first, short, encoder), tmp_path, after_step=first.update)
    again = make_trainee()
    run_stage(again, short, flow_loss(again, short, encoder), tmp_path, after_step=again.update)
    for name, value in first.average.state_dict().items():
        assert torch.equal(value, again.average.state_dict()[name]), name


def test_the_papers_freezing() -> None:
    one, two, three = FLOW_STAGES
    assert not any("language_model" in prefix for prefix in one.trainable)
    assert not any("vision_und_enc_model" in prefix for prefix in two.trainable)
    assert set(one.trainable) < set(two.trainable) < set(three.trainable)
    assert not any("vae" in prefix for stage in FLOW_STAGES for prefix in stage.trainable)


def test_a_wrong_start_gives_one_line(tmp_path: Path, checkpoint_dir: Path) -> None:
    """Before any training, and nothing is written but the empty folder of the run."""
    for start, says in (
        ("nothere", "nothere/config.json: No such file"),
        (checkpoint_dir, "other sizes"),
    ):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "janus_edge.train",
                "r",
                "--model",
                "janusflow",
                "--start",
                start,
            ],
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert says in done.stderr.splitlines()[-1]
        assert not list((tmp_path / "r").iterdir())


def test_a_janusflow_can_be_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    start = JanusFlow(TINY_FLOW, TINY_VAE)
    initialise_flow(start)
    checkpoint = Checkpoint(
        model=start,
        tokenizer_json=make_tokenizer(456, 500).to_str(),
        prompt=dataclasses.asdict(TEMPLATE),
        sampling=dict(FLOW_SAMPLING),
    )
    save_checkpoint(checkpoint, tmp_path / "start", torch.float32)
    stage = dataclasses.replace(
        FLOW_STAGES[1], num_steps=1, warmup_steps=0, mixture=(1, 1, 2), batch_size=4
    )
    monkeypatch.setattr(flow, "FLOW_STAGES", (stage,))
    (tmp_path / "run").mkdir()
    made = make_flow(tmp_path / "run", torch.device("cpu"), False, tmp_path / "start")
    assert made.stages == (stage,)
    before, after = start.state_dict(), made.checkpoint.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "language_model.model.layers.0.mlp.up_proj.weight" in moved
    assert not any(name.startswith(("vae.", "vision_und_enc_model.")) for name in moved)
