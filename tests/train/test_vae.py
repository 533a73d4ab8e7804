from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from janus_edge.model.vae import VAE, VAEConfig
from janus_edge.train.loop import Stage, run_stage
from janus_edge.train.vae import TINY_VAE, latent_scale, plain_variance, vae_loss
from janus_edge.train.vq import foreground, scene_batch, scene_images

MINIATURE = VAEConfig(
    latent_channels=4,
    block_out_channels=(4, 8, 8),
    layers_per_block=1,
    norm_num_groups=4,
    scaling_factor=1.0,
)


def make_model() -> VAE:
    torch.manual_seed(0)
    return VAE(MINIATURE)


def test_the_loss_goes_down(tmp_path: Path) -> None:
    model = make_model()
    loss_at = vae_loss(model, 4)
    before = loss_at(100)[0].item()
    stage = Stage(name="vae", num_steps=12, batch_size=4, learning_rate=1e-2, trainable=("",))
    run_stage(model, stage, loss_at, tmp_path)
    loss, metrics = loss_at(100)
    assert loss.item() < 0.7 * before
    assert 0 < metrics["reconstruction"] < loss.item()


def test_a_step_follows_from_its_number() -> None:
    model = make_model()
    loss_at = vae_loss(model, 2)
    assert torch.equal(loss_at(3)[0], loss_at(3)[0])
    assert not torch.equal(loss_at(3)[0], loss_at(4)[0])


def test_plain_cells_are_those_without_foreground() -> None:
    batch = scene_batch(0, 6)
    pixels = scene_images(batch)
    shown = foreground(batch, pixels)
    names = sorted({scene.background for scene in batch})
    mean = torch.empty(6, 4, 16, 16)
    for i, scene in enumerate(batch):  # one latent a background, another where things are
        mean[i] = names.index(scene.background)
    assert plain_variance(mean, batch, shown) == 0
    things = nn.functional.max_pool2d(shown.float(), 4) > 0
    assert plain_variance(mean + 7 * things, batch, shown) == 0
    assert plain_variance(mean + torch.randn_like(mean), batch, shown).item() == pytest.approx(
        1, abs=0.1
    )


def test_scaled_latents_have_unit_variance() -> None:
    model = make_model()
    factor = latent_scale(model, num_batches=1)
    latents = model.encode(scene_images(scene_batch(0, 32)))[0]
    assert (latents * factor).std().item() == pytest.approx(1, rel=1e-3)


def test_latents_of_the_small_model() -> None:
    assert (TINY_VAE.stride, TINY_VAE.latent_channels) == (4, 4)
    with torch.device("meta"):
        assert sum(p.numel() for p in VAE(TINY_VAE).parameters()) < 1_500_000
