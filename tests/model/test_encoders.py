"""Understanding encoders: another kind is a row of a table, and it loads as transformers has it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from janus_edge.export.bundle.writer import export_bundle
from janus_edge.model.config import JanusConfig
from janus_edge.model.encoders import ENCODERS, ClassTokenVision, CodeVision, make_encoder
from janus_edge.model.files import CheckpointError
from janus_edge.model.janus import Janus
from janus_edge.model.weights import load_checkpoint, save_checkpoint
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.requests import AskRequest
from janus_edge.runtime.session import Session
from janus_edge.train.given import fill_vision
from janus_edge.train.initial import initialise, start_codes
from tests.conftest import RANDOM

CODES = dataclasses.replace(
    RANDOM.vision,
    encoder="codes",
    width=RANDOM.codebook.dim,
    patch_size=RANDOM.codebook.stride,
    heads=1,
)
CONFIGS = {
    "siglip": RANDOM,
    "vit": dataclasses.replace(
        RANDOM, vision=dataclasses.replace(RANDOM.vision, encoder="vit", layer_norm_eps=1e-12)
    ),
    "codes": dataclasses.replace(RANDOM, vision=CODES),
}


def random_model(name: str) -> Janus:
    torch.manual_seed(0)
    model = Janus(CONFIGS[name]).eval()
    initialise(model)
    return model


def test_every_kind_is_tested() -> None:
    assert set(CONFIGS) == set(ENCODERS)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_with_any_encoder_is_saved_exported_and_asked(
    name: str, checkpoint_dir: Path, tmp_path: Path
) -> None:
    model = random_model(name)
    pixels = torch.rand(2, 3, RANDOM.vision.image_size, RANDOM.vision.image_size) * 2 - 1
    with torch.no_grad():
        wanted = model.embed_images(pixels)
    assert wanted.shape == (2, CONFIGS[name].vision.num_patches, RANDOM.language.hidden_size)
    base = load_checkpoint(checkpoint_dir)
    checkpoint = dataclasses.replace(base, model=model, samples=None)
    save_checkpoint(checkpoint, tmp_path / "c", torch.float32)
    raw = json.loads((tmp_path / "c/config.json").read_text(encoding="utf-8"))
    assert raw["model"]["vision"].get("encoder", "siglip") == name
    loaded = load_checkpoint(tmp_path / "c")
    with torch.no_grad():
        assert torch.equal(loaded.model.embed_images(pixels), wanted)
    if name == "siglip":
        return  # all other tests export it
    export_bundle(loaded, tmp_path / "b", max_length=96, report=lambda line: None)
    session = Session(open_bundle(tmp_path / "b"), num_threads=1)
    request = AskRequest(question="what?", images=(Image.new("RGB", (40, 30), "red"),))
    assert list(session.ask(dataclasses.replace(request, max_tokens=3)))


def test_a_vit_gives_what_transformers_gives(tmp_path: Path) -> None:
    vision = CONFIGS["vit"].vision
    torch.manual_seed(1)
    theirs = transformers.ViTModel(
        transformers.ViTConfig(
            hidden_size=vision.width,
            num_hidden_layers=vision.layers,
            num_attention_heads=vision.heads,
            intermediate_size=int(vision.width * vision.mlp_ratio),
            image_size=vision.image_size,
            patch_size=vision.patch_size,
        )
    ).eval()
    for value in theirs.parameters():
        value.data += 0.1 * torch.randn_like(value)
    theirs.save_pretrained(tmp_path)
    model = random_model("vit")
    fill_vision(model, tmp_path)
    assert isinstance(model.vision_model, ClassTokenVision)
    pixels = torch.rand(2, 3, vision.image_size, vision.image_size) * 2 - 1
    with torch.no_grad():
        wanted = theirs(pixels).last_hidden_state[:, 1:]
        assert torch.allclose(model.vision_model(pixels), wanted, atol=2e-5)


@pytest.mark.parametrize("colours", [{}, {"plain": ((255, 255, 255), (0, 0, 0))}])
@pytest.mark.parametrize("recoloured", [False, True])
def test_one_encoder_for_both_sees_the_codes(
    colours: dict[str, Any], recoloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    colours = colours and colours | {"recoloured": recoloured}
    book = dataclasses.replace(RANDOM.codebook, **colours)
    monkeypatch.setitem(CONFIGS, "codes", dataclasses.replace(CONFIGS["codes"], codebook=book))
    model = random_model("codes")
    for value in model.gen_vision_model.parameters():
        value.data += 0.3 * torch.randn_like(value)
    start_codes(model)
    assert isinstance(model.vision_model, CodeVision)
    pixels = torch.rand(2, 3, RANDOM.vision.image_size, RANDOM.vision.image_size) * 2 - 1
    pixels[1, :, :, : RANDOM.vision.image_size // 2] = -1  # black is a plain background
    with torch.no_grad():
        codes = model.gen_vision_model.encode(pixels)
        assert not colours or (codes[1].view(4, 4)[:, :2] == 1).all()
        wanted = model.gen_vision_model.quantize.table()[codes]
        assert torch.equal(model.vision_model(pixels), wanted)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoder": "eyes"}, 'encoder "eyes": give one of siglip, vit, codes'),
        ({"encoder": "codes", "width": 24}, "give width 8 and patch_size"),
        ({"encoder": 3}, 'encoder is "3", not a name'),
    ],
)
def test_what_does_not_fit(
    change: dict[str, object], says: str, checkpoint_dir: Path, tmp_path: Path
) -> None:
    raw = json.loads((checkpoint_dir / "config.json").read_text(encoding="utf-8"))
    raw["model"]["vision"] |= change
    for path in checkpoint_dir.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(CheckpointError, match=says) as caught:
        load_checkpoint(tmp_path)
    assert "config.json" in str(caught.value)


def test_a_flow_has_no_codes() -> None:
    with pytest.raises(ValueError, match="which a JanusFlow does not have"):
        make_encoder(CODES)


@pytest.mark.parametrize(("name", "kind"), [("siglip", "vit"), ("vit", "siglip"), ("codes", "vit")])
def test_another_kinds_weights(name: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"model_type is {kind}; encoder {name}"):
        fill_vision(random_model(name), tmp_path)


def test_published_configs_stay_as_they_are() -> None:
    assert "encoder" not in RANDOM.to_dict()["vision"]
    for config in CONFIGS.values():
        assert JanusConfig.from_dict(config.to_dict()) == config
