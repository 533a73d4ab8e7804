"""JanusFlow's checkpoint: its config, its tensors, and the autoencoder that lies beside it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from janus_edge.model.config import FlowConfig, JanusFlowConfig, LanguageConfig, VisionConfig
from janus_edge.model.janusflow import JanusFlow
from janus_edge.model.matching import UNUSED, find_weights
from janus_edge.model.published import read_config
from janus_edge.model.tensors import CheckpointError
from janus_edge.model.vae import SDXL
from janus_edge.model.weights import (
    VAE_FOLDER,
    Checkpoint,
    Model,
    load_checkpoint,
    loaded,
    save_checkpoint,
)
from tests.conftest import RANDOM_FLOW, RANDOM_VAE

from .conftest import sparse_safetensors

PUBLISHED = Path(__file__).parent.parent / "published"  # names and shapes of the published files
ENCODER, DECODER = "vision_gen_enc_config", "vision_gen_dec_config"
VAE_FILE = "diffusion_pytorch_model.safetensors"


def published_config() -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(
        (PUBLISHED / "config-janusflow-1.3b.json").read_text(encoding="utf-8")
    )
    return raw


def same(a: Model, b: Model) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.fixture
def copy(flow_dir: Path, tmp_path: Path) -> Path:
    """A checkpoint to damage."""
    return shutil.copytree(flow_dir, tmp_path / "copy")


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_the_published_config() -> None:
    """Sizes from arXiv 2411.07975 and the published files; the rest are Llama's defaults."""
    assert read_config(published_config()) == JanusFlowConfig(
        language=LanguageConfig(
            vocab_size=102400,
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=24,
            num_attention_heads=16,
            num_key_value_heads=16,
            max_position_embeddings=16384,
            rms_norm_eps=1e-6,
            rope_theta=10000.0,
        ),
        vision=VisionConfig(image_size=384, patch_size=16, width=1024, layers=24, heads=16),
        flow=FlowConfig(
            channels=768, latent_channels=4, patch=2, layers_in_middle=2, norm_eps=1e-6
        ),
    )


def test_what_a_config_leaves_out_is_as_published() -> None:
    raw = published_config()
    for section in (ENCODER, DECODER):
        raw[section]["params"] = {}
    assert read_config(raw) == read_config(published_config())


def test_every_published_tensor_has_its_place(tmp_path: Path) -> None:
    """All names and shapes of the published file, as a sparse file without data."""
    shapes = json.loads((PUBLISHED / "state-dict-flow.json").read_text(encoding="utf-8"))
    path = tmp_path / "model.safetensors"
    sparse_safetensors(path, shapes)
    with torch.device("meta"):
        model = JanusFlow(read_config(published_config()), SDXL)
    assert (model.latent_size, model.latent_grid) == (48, 24)
    weights = find_weights(model, path)
    used = {name for name in shapes if not name.startswith(UNUSED)}
    assert weights.sources == {name: (name,) for name in used}
    assert {name for name in model.state_dict() if not name.startswith("vae.")} == used
    assert len(shapes) - len(used) == 13  # SigLIP's pooling head


@pytest.mark.parametrize(
    ("section", "key", "value", "says"),
    [
        ("vision_und_enc_config", "select_layer", -2, 'select_layer is "-2"'),
        ("vision_und_enc_config", "model_name", "siglip2", 'model_name is "siglip2"'),
        (ENCODER, "use_mid_block", False, 'gen_enc_config: use_mid_block is "False"'),
        (ENCODER, "padding", 1, 'gen_enc_config: padding is "1"; only "0"'),
        (ENCODER, "stride", 4, 'gen_enc_config: stride is "4"; only "2"'),
        (ENCODER, "kernel_size", 4, 'gen_enc_config: stride is "2"; only "4"'),
        (ENCODER, "hidden_size", 4096, 'gen_enc_config: hidden_size is "4096"; only "2048"'),
        (ENCODER, "input_channels", 16, 'gen_dec_config: out_channels is "4"; only "16"'),
        (ENCODER, "layers_in_middle", 3, 'gen_dec_config: layers_in_middle is "2"; only "3"'),
        (ENCODER, "norm_eps", 1e-5, 'gen_dec_config: norm_eps is "1e-06"; only "1e-05"'),
        (ENCODER, "block_out_channels", [512], 'gen_dec_config: in_channels is "768"; only "512"'),
        (DECODER, "block_out_channels", [768, 768], "gen_dec_config: block_out_channels is"),
        (DECODER, "upsamples", 2, 'gen_dec_config: upsamples is "2"; only "1"'),
        (DECODER, "use_bias", False, 'gen_dec_config: use_bias is "False"'),
        (DECODER, "elementwise_affine", False, 'gen_dec_config: elementwise_affine is "False"'),
    ],
)
def test_configs_that_are_no_janusflow(section: str, key: str, value: Any, says: str) -> None:
    raw = published_config()
    raw[section]["params"][key] = value
    with pytest.raises(ValueError, match=says):
        read_config(raw)


@pytest.mark.parametrize("section", ["vision_und_enc_config", DECODER, "language_config"])
def test_configs_without_a_section(section: str) -> None:
    raw = published_config()
    del raw[section]
    with pytest.raises(ValueError, match=f"no section {section}"):
        read_config(raw)


@pytest.mark.parametrize("section", [ENCODER, DECODER])
def test_configs_of_another_network(section: str) -> None:
    raw = published_config()
    raw[section]["cls"] = "UViT"
    with pytest.raises(ValueError, match=f'{section}: cls is "UViT"'):
        read_config(raw)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    """Bit for bit in float32, with the latents to fit the preview to."""
    torch.manual_seed(2)
    model = JanusFlow(RANDOM_FLOW, RANDOM_VAE)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    size = model.latent_size
    samples = np.random.default_rng(0).standard_normal((3, 4, size, size), np.float32)
    checkpoint = Checkpoint(
        model=model,
        tokenizer_json="{}",
        prompt={"user_role": "a", "assistant_role": "b", "system_prompt": "c"},
        sampling={"guidance_scale": 2.0, "num_steps": 7, "solver": "heun"},
        samples=samples,
    )
    save_checkpoint(checkpoint, tmp_path, torch.float32)
    assert not any(n.startswith("vae.") for n in load_file(tmp_path / "model.safetensors"))
    found = load_checkpoint(tmp_path)
    assert isinstance(found.model, JanusFlow)
    assert same(found.model, model)
    assert (found.model.config, found.model.vae_config) == (RANDOM_FLOW, RANDOM_VAE)
    assert found.samples is not None and np.array_equal(found.samples, samples)
    rest = {"model": model, "samples": None}
    assert dataclasses.replace(found, **rest) == dataclasses.replace(checkpoint, **rest)


def as_diffusers_once_did(tensors: dict[str, Tensor]) -> None:
    """Older names of the attention, and its layers as 1x1 convolutions."""
    once = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for now, then in once.items():
        for name in [name for name in tensors if f".{now}." in name]:
            tensor = tensors.pop(name)
            shape = tensor.shape if tensor.ndim == 1 else (*tensor.shape, 1, 1)
            tensors[name.replace(now, then)] = tensor.reshape(shape)


def test_an_autoencoder_of_old(copy: Path, flow_checkpoint: Checkpoint) -> None:
    path = copy / VAE_FOLDER / VAE_FILE
    rewrite(path, as_diffusers_once_did)
    shapes = {name: tensor.shape for name, tensor in load_file(path).items()}
    assert shapes["decoder.mid_block.attentions.0.query.weight"] == (16, 16, 1, 1)
    assert not any("to_q" in name for name in shapes)
    assert same(load_checkpoint(copy).model, flow_checkpoint.model)
    lazy = load_checkpoint(copy, lazy=True)
    with loaded(lazy, "vae.decoder."):
        assert same(lazy.model.vae.decoder, flow_checkpoint.model.vae.decoder)
    assert all(parameter.is_meta for parameter in lazy.model.parameters())


def test_an_autoencoder_elsewhere(copy: Path, tmp_path: Path, flow_checkpoint: Checkpoint) -> None:
    (copy / VAE_FOLDER).rename(tmp_path / "sdxl-vae")
    found = load_checkpoint(copy, vae=tmp_path / "sdxl-vae")
    assert same(found.model, flow_checkpoint.model)


def change_config(**changes: Any) -> Callable[[Path], None]:
    def change(vae: Path) -> None:
        raw = json.loads((vae / "config.json").read_text(encoding="utf-8"))
        (vae / "config.json").write_text(json.dumps(raw | changes), encoding="utf-8")

    return change


def lose_a_tensor(vae: Path) -> None:
    rewrite(vae / VAE_FILE, lambda tensors: tensors.pop("quant_conv.bias"))


def rename_a_tensor(vae: Path) -> None:
    rewrite(vae / VAE_FILE, lambda tensors: tensors.update(odd=tensors.pop("quant_conv.bias")))


def truncate(vae: Path) -> None:
    path = vae / VAE_FILE
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (shutil.rmtree, "/vae/config.json: No such file or directory; a JanusFlow draws with the"),
        (lambda vae: (vae / VAE_FILE).unlink(), "/vae: no weights; looked for"),
        (lambda vae: (vae / "config.json").write_bytes(b"{"), "/vae/config.json: not a config"),
        (lambda vae: (vae / "config.json").write_bytes(b"[]"), "/vae/config.json: not a config"),
        (change_config(latent_channels=8), "config.json: not a config that can be read: the "
         "autoencoder has 8 latent channels, the flow 4"),
        (change_config(_class_name="VQModel"), 'config.json: not a config that can be read: _class_'
         'name is "VQModel"'),
        (change_config(block_out_channels=[8, 16]), "down_block_types"),
        (change_config(layers_per_block=2), f"/vae/{VAE_FILE}: does not fit config.json: missing"),
        (lose_a_tensor, f"{VAE_FILE}: does not fit config.json: missing vae.quant_conv.bias"),
        (rename_a_tensor, "missing vae.quant_conv.bias; unexpected odd"),
        (truncate, f"/vae/{VAE_FILE}: damaged"),
    ],
)  # fmt: skip
def test_each_fault_of_the_autoencoder_gives_one_line(
    copy: Path, damage: Callable[[Path], None], says: str
) -> None:
    damage(copy / VAE_FOLDER)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(copy, lazy=True)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_samples_of_another_size(copy: Path) -> None:
    np.save(copy / "samples.npy", np.zeros((2, 4, 3, 3), np.float32))
    with pytest.raises(CheckpointError, match=r"samples\.npy: not of this model's images"):
        load_checkpoint(copy, lazy=True)
