"""An autoencoder in one file, in diffusers' naming or the original one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file

from janus_edge.model.config import JanusFlowConfig
from janus_edge.model.files import CheckpointError
from janus_edge.model.janusflow import JanusFlow
from janus_edge.model.names import original_autoencoder_name
from janus_edge.model.published import read_config
from janus_edge.model.vae import SDXL, VAE, vae_config_json
from janus_edge.model.weights import Checkpoint, Model, empty_model, load_checkpoint
from tests.conftest import RANDOM_VAE
from tests.model.conftest import sparse_safetensors


@pytest.fixture
def flow(flow_dir: Path, tmp_path: Path) -> Path:
    """A JanusFlow to change."""
    return shutil.copytree(flow_dir, tmp_path / "flow")


def same(a: Model, b: Model) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


def original_names(levels: int) -> dict[str, str]:
    """diffusers' names by the original ones, of an autoencoder of so many levels."""
    config = RANDOM_VAE if levels == 3 else SDXL
    with torch.device("meta"):
        names = list(VAE(config).state_dict())
    found = {}
    for name in names:
        parts = name.split(".")
        if parts[1] == "mid_block":
            tail = {"group_norm": "norm", "to_out": "proj_out"}
            if parts[2] == "resnets":
                parts[1:4] = ["mid", f"block_{int(parts[3]) + 1}"]
            else:
                kind = tail.get(parts[4], parts[4].removeprefix("to_"))
                parts[1:] = ["mid", "attn_1", kind, parts[-1]]
        elif parts[1] in ("down_blocks", "up_blocks"):
            index = int(parts[2])
            index = index if parts[1] == "down_blocks" else levels - 1 - index
            side = parts[1].removesuffix("_blocks")
            rest = ["block", *parts[4:]] if parts[3] == "resnets" else [f"{side}sample", *parts[5:]]
            parts[1:] = [side, str(index), *rest]
        text = ".".join(parts).replace("conv_norm_out", "norm_out")
        found[text.replace("conv_shortcut", "nin_shortcut")] = name
    return found


def test_original_names_are_diffusers() -> None:
    """By diffusers' own conversion of a file in the original naming, at SDXL's size."""
    names = original_names(4)
    with torch.device("meta"):
        shapes = VAE(SDXL).state_dict()
    tensors = {old: torch.zeros(1).expand(shapes[new].shape) for old, new in names.items()}
    theirs = convert_ldm_vae_checkpoint(dict(tensors), vae_config_json(SDXL))
    assert set(theirs) == set(shapes)
    assert {original_autoencoder_name(old, 4) for old in names} == set(theirs)
    assert all(original_autoencoder_name(old, 4) == new for old, new in names.items())
    assert all(original_autoencoder_name(new, 4) == new for new in names.values())


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_an_autoencoder_in_one_file(
    flow: Path, flow_checkpoint: Checkpoint, tmp_path: Path, prefix: str
) -> None:
    """In the original naming, its attention as 1x1 convolutions, the config beside it."""
    tensors = load_file(flow / "vae" / "diffusion_pytorch_model.safetensors")
    made = {}
    for old, new in original_names(3).items():
        is_product = ".mid.attn_1." in old and old.endswith("weight") and ".norm." not in old
        made[prefix + old] = tensors[new][..., None, None] if is_product else tensors[new]
    if prefix:
        made["model.diffusion_model.out.0.bias"] = torch.ones(3)
    (tmp_path / "one").mkdir()
    file = tmp_path / "one" / "sdxl_vae.safetensors"
    save_file(made, file)
    shutil.copy(flow / "vae" / "config.json", file.parent)
    shutil.rmtree(flow / "vae")
    assert same(load_checkpoint(flow, vae=file).model, flow_checkpoint.model)
    (file.parent / "config.json").unlink()  # then it is to be SDXL's
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(flow, vae=file)
    says = "does not fit SDXL's autoencoder; give its folder, with config.json, to --vae"
    assert says in str(caught.value) or "autoencoder's stride" in str(caught.value)


def test_a_folder_around_the_autoencoder(flow: Path, tmp_path: Path) -> None:
    (tmp_path / "sdxl").mkdir()
    shutil.move(flow / "vae", tmp_path / "sdxl" / "vae")
    with pytest.raises(CheckpointError, match=r"its autoencoder is in .*/sdxl/vae: give that"):
        load_checkpoint(flow, vae=tmp_path / "sdxl")


def test_a_sparse_sdxl_file_is_sdxls(tmp_path: Path) -> None:
    """All of sdxl_vae.safetensors' names and shapes, and no config beside it."""
    published = Path(__file__).parent.parent / "published" / "config-janusflow-1.3b.json"
    with torch.device("meta"):
        shapes = VAE(SDXL).state_dict()
    listing = {old: list(shapes[new].shape) for old, new in original_names(4).items()}
    sparse_safetensors(tmp_path / "sdxl_vae.safetensors", listing)
    config = read_config(json.loads(published.read_text(encoding="utf-8")))
    assert isinstance(config, JanusFlowConfig)
    model, beside = empty_model(config, tmp_path / "sdxl_vae.safetensors")
    assert isinstance(model, JanusFlow)
    assert beside is not None and len(beside.sources) == len(shapes)
    assert model.vae_config == SDXL


def test_an_autoencoder_in_the_cache(
    flow: Path, flow_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    cache = tmp_path / "models--stabilityai--sdxl-vae"
    (cache / "snapshots").mkdir(parents=True)
    shutil.move(flow / "vae", cache / "snapshots" / "cc33")
    assert same(load_checkpoint(flow, vae=cache).model, flow_checkpoint.model)
