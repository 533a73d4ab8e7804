"""The autoencoder against diffusers' AutoencoderKL."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from janus_edge.model.tensors import open_tensors
from janus_edge.model.vae import VAE, VAEConfig, diffusers_name, read_vae_config, vae_config_json

# stabilityai/sdxl-vae/config.json as published
SDXL: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.18.0.dev0",
    "_name_or_path": "../sdxl-vae/",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


def sizes(latent: int, widths: tuple[int, ...], layers: int, groups: int) -> VAEConfig:
    return VAEConfig(
        latent_channels=latent,
        block_out_channels=widths,
        layers_per_block=layers,
        norm_num_groups=groups,
        scaling_factor=0.5,
    )


CONFIGS = (
    sizes(4, (16, 32, 32), 1, 8),
    sizes(4, (12, 20, 28, 20), 2, 4),
    sizes(3, (9, 15), 3, 3),
    sizes(1, (5,), 1, 1),
)


def pair(config: VAEConfig) -> tuple[AutoencoderKL, VAE]:
    """Theirs and ours with the same weights, random all over: fresh norms would hide mistakes."""
    torch.manual_seed(0)
    theirs = AutoencoderKL.from_config(vae_config_json(config)).eval()
    for parameter in theirs.parameters():
        std = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        nn.init.normal_(parameter, std=std)
    ours = VAE(config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


def same(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-4 * expected.abs().max())


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: "-".join(map(str, c.block_out_channels)))
@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 48), (29, 43)])
@torch.no_grad()
def test_same_as_diffusers(config: VAEConfig, height: int, width: int) -> None:
    theirs, ours = pair(config)
    pixels = torch.randn(2, 3, height, width)
    expected = theirs.encode(pixels).latent_dist
    mean, logvar = ours.encode(pixels)
    assert same(mean, expected.mean) and same(logvar, expected.logvar)
    assert mean.std() > 0.01 and logvar.std() > 0.01  # there is something to compare
    latent = torch.randn_like(mean)
    assert same(ours.decode(latent), theirs.decode(latent).sample)
    assert torch.equal(ours.to_latent(pixels), mean * 0.5)
    assert torch.equal(ours.to_pixels(latent), ours.decode(latent * 2))


@torch.no_grad()
def test_the_log_variance_is_clamped() -> None:
    theirs, ours = pair(CONFIGS[0])
    for model in (theirs, ours):
        model.quant_conv.weight.mul_(1e4)
    pixels = torch.randn(1, 3, 32, 32)
    logvar = ours.encode(pixels)[1]
    assert logvar.min() == -30 and logvar.max() == 20
    assert same(logvar, theirs.encode(pixels).latent_dist.logvar)


@pytest.mark.parametrize("raw", [SDXL, vae_config_json(CONFIGS[0]), vae_config_json(CONFIGS[1])])
def test_names_and_shapes_are_diffusers(raw: dict[str, Any]) -> None:
    with torch.device("meta"):
        ours, theirs = VAE(read_vae_config(raw)), AutoencoderKL.from_config(raw)
    shapes = [{n: t.shape for n, t in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_the_published_config() -> None:
    config = read_vae_config(SDXL)
    assert config == VAEConfig(
        latent_channels=4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        norm_num_groups=32,
        scaling_factor=0.13025,
    )
    assert config.stride == 8
    without = {key: value for key, value in SDXL.items() if key != "scaling_factor"}
    assert read_vae_config(without).scaling_factor == 0.18215  # diffusers' default
    newer = {"use_quant_conv": True, "latents_mean": None, "shift_factor": None}
    assert read_vae_config(SDXL | newer) == config


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_comes_back(config: VAEConfig) -> None:
    assert read_vae_config(json.loads(json.dumps(vae_config_json(config)))) == config


OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def old_name(name: str) -> str:
    for new, old in OLD.items():
        name = name.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
    return name


def test_old_names_of_attention(tmp_path: Path) -> None:
    """What diffusers reads in old names, and that it is the model it had in new ones."""
    ours = pair(CONFIGS[0])[1]
    assert all(diffusers_name(name) == name for name in ours.state_dict())
    renamed = {old_name(name): tensor for name, tensor in ours.state_dict().items()}
    assert len(set(renamed) - set(ours.state_dict())) == 2 * 4 * 2  # coders, layers, bias
    assert {diffusers_name(name) for name in renamed} == set(ours.state_dict())
    (tmp_path / "config.json").write_text(json.dumps(vae_config_json(CONFIGS[0])), encoding="utf-8")
    save_file(renamed, tmp_path / "diffusion_pytorch_model.safetensors")
    again = AutoencoderKL.from_pretrained(tmp_path, local_files_only=True).state_dict()
    for name, tensor in renamed.items():
        assert torch.equal(again[diffusers_name(name)], tensor), name


@pytest.mark.parametrize("half", [False, True])
def test_files_that_diffusers_writes(tmp_path: Path, half: bool) -> None:
    theirs, ours = pair(CONFIGS[0])
    theirs.save_pretrained(tmp_path, variant="fp16" if half else None)
    files = open_tensors(tmp_path)
    assert files.first.name == f"diffusion_pytorch_model{'.fp16' * half}.safetensors"
    assert set(files.shapes) == set(ours.state_dict()) == set(load_file(files.first))
    assert (
        read_vae_config(json.loads((tmp_path / "config.json").read_text(encoding="utf-8")))
        == CONFIGS[0]
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"_class_name": "AutoencoderTiny"}, '_class_name is "AutoencoderTiny"'),
        ({"_class_name": None}, '_class_name is "None"'),
        ({"act_fn": "gelu"}, 'act_fn is "gelu"; only "silu" is supported'),
        ({"in_channels": 4}, 'in_channels is "4"'),
        ({"out_channels": 1}, 'out_channels is "1"'),
        ({"use_quant_conv": False}, 'use_quant_conv is "False"'),
        ({"use_post_quant_conv": False}, 'use_post_quant_conv is "False"'),
        ({"mid_block_add_attention": False}, 'mid_block_add_attention is "False"'),
        ({"shift_factor": 0.1}, 'shift_factor is "0.1"'),
        ({"latents_mean": [0.0] * 4}, "latents_mean is"),
        ({"latents_std": [1.0] * 4}, "latents_std is"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "down_block_types is"),
        ({"up_block_types": ["UpDecoderBlock2D"] * 3}, "only 4 UpDecoderBlock2D"),
        ({"temporal": True}, "unknown keys: temporal"),
        ({"block_out_channels": 128}, 'block_out_channels is "128", not a list'),
        ({"block_out_channels": []}, 'block_out_channels is "()", not 1 to 8 numbers'),
        ({"block_out_channels": [128, 256, 512, 500]}, 'block_out_channels has "500"'),
        ({"layers_per_block": 0}, 'layers_per_block is "0"'),
        ({"latent_channels": "4"}, 'latent_channels is "4"'),
        ({"norm_num_groups": True}, 'norm_num_groups is "True"'),
        ({"scaling_factor": 0}, 'scaling_factor is "0"'),
        ({"scaling_factor": float("nan")}, 'scaling_factor is "nan"'),
    ],
)
def test_what_is_not_supported(change: dict[str, Any], says: str) -> None:
    raw = SDXL | change
    if change.get("block_out_channels") == []:
        raw |= {"down_block_types": [], "up_block_types": []}
    with pytest.raises(ValueError) as caught:
        read_vae_config(raw)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_missing() -> None:
    """diffusers' own defaults, whose autoencoder has one level."""
    ours, theirs = read_vae_config({"_class_name": "AutoencoderKL"}), AutoencoderKL().config
    assert asdict(ours) == {key: theirs[key] for key in asdict(ours)}
