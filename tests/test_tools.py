from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from janus_edge.export.tokenizer.roles import TEMPLATES, complete
from janus_edge.model.janus import Janus
from janus_edge.model.janusflow import JanusFlow
from janus_edge.model.matching import find_weights
from janus_edge.model.vae import SDXL, read_vae_config
from janus_edge.model.weights import fill, load_checkpoint
from janus_edge.runtime.prompt import PromptEncoder
from tests.conftest import RANDOM, RANDOM_FLOW, RANDOM_VAE

ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT / "tests" / "published"


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    """The tool; what it imports lies beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")
        yield import_module("make_checkpoint")


@pytest.mark.parametrize("name", ["janus-pro-1b", "janus-pro-7b", "janusflow-1.3b"])
def test_writes_the_published_config(
    tool: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "_write_shards", lambda *_: None)  # gigabytes of weights
    monkeypatch.setattr(sys, "argv", ["make_checkpoint", name, str(tmp_path)])
    tool.main()
    published = PUBLISHED / f"config-{name}.json"
    assert (tmp_path / "config.json").read_bytes() == published.read_bytes()


@pytest.mark.parametrize(
    ("name", "listed", "num_beside"),
    [
        ("janus-1.3b", "1b", 0),
        ("janus-pro-1b", "1b", 0),
        ("janus-pro-7b", "7b", 0),
        ("janusflow-1.3b", "flow", 83_653_863),
    ],
)
def test_published_names_and_shapes(
    tool: ModuleType, name: str, listed: str, num_beside: int
) -> None:
    """num_beside: parameters of the autoencoder, whose names test_vae.py holds to diffusers'."""
    model = tool.empty_model(json.loads(tool.published_config(name)), SDXL)
    own, beside = tool.published_shapes(model)
    listing = json.loads((PUBLISHED / f"state-dict-{listed}.json").read_text(encoding="utf-8"))
    assert {key: list(shape) for key, shape in own.items()} == listing
    assert sum(map(math.prod, beside.values())) == num_beside


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_shards_load_and_compute(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """A miniature in several shards: logits that are neither flat nor extreme."""
    monkeypatch.setattr(tool, "SHARD_BYTES", 50_000)
    unused = {"gen_vision_model.quantize.codebook_used": (8,)}
    monkeypatch.setattr(tool, "UNUSED", {"janus": unused})
    tool.write_checkpoint("janus-pro-1b", tmp_path, json.dumps({"model": RANDOM.to_dict()}), file)
    assert len(list(tmp_path.glob(f"*-of-*.{file.split('.')[1]}"))) > 1
    model = Janus(RANDOM).eval()
    fill(model, find_weights(model, tmp_path))
    assert model.gen_embed.weight.bfloat16().float().equal(model.gen_embed.weight)
    text = complete(
        (tmp_path / "tokenizer.json").read_text(encoding="utf-8"), RANDOM.language.vocab_size
    )
    encoder = PromptEncoder.load(text, TEMPLATES["janus-pro"])
    ids = torch.from_numpy(encoder.generation("a red circle"))[None]
    with torch.no_grad():
        hidden = model.hidden(model.embed_text(ids))
        for logits in (model.image_logits(hidden), model.text_logits(hidden)):
            assert 0.5 < float(logits.std()) < 8


def test_a_flow_and_its_autoencoder_load_and_compute(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A miniature, both in several shards: velocities and pixels neither flat nor extreme."""
    pool = "vision_und_enc_model.vision_tower.attn_pool.latent"
    monkeypatch.setattr(tool, "SHARD_BYTES", 50_000)
    monkeypatch.setattr(tool, "UNUSED", {"janusflow": {pool: (1, 1, 24)}})
    config = json.dumps({"model": RANDOM_FLOW.to_dict()})
    tool.write_checkpoint("janusflow-1.3b", tmp_path, config, "model.safetensors", RANDOM_VAE)
    for folder in (tmp_path, tmp_path / "vae"):
        assert len(list(folder.glob("*-of-*.safetensors"))) > 1
    raw = json.loads((tmp_path / "vae" / "config.json").read_text(encoding="utf-8"))
    assert read_vae_config(raw) == RANDOM_VAE
    checkpoint = load_checkpoint(tmp_path)
    model = checkpoint.model
    assert isinstance(model, JanusFlow)
    for part, is_half in (
        (model.vision_gen_enc_model.in_conv, True),
        (model.vae.quant_conv, False),
    ):
        assert part.weight.bfloat16().float().equal(part.weight) == is_half
    encoder = PromptEncoder.load(checkpoint.tokenizer_json, TEMPLATES["janus"])
    prompt = model.embed_text(torch.from_numpy(encoder.generation("a red circle"))[None])
    torch.manual_seed(0)
    latent = torch.randn(1, 4, model.latent_size, model.latent_size)
    with torch.no_grad():
        assert 0.3 < float(model.velocity(prompt, latent, torch.tensor([0.5])).std()) < 3
        assert 0.1 < float(model.vae.to_pixels(latent).std()) < 2
        assert 0.5 < float(model.text_logits(model.hidden(prompt)).std()) < 8


@pytest.mark.slow
def test_the_published_7b_draws_and_answers(tmp_path: Path) -> None:
    """Full shape, published config, random weights: 20 GB of disk, 10 GB of memory, minutes."""
    bench = str(ROOT / "bench" / "programs" / "fullsize.py")
    words = [sys.executable, bench, "janus-pro-7b", str(tmp_path), "--quantize", "int4"]
    done = subprocess.run(words, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    written = (tmp_path / "janus-pro-7b" / "config.json").read_bytes()
    assert written == (PUBLISHED / "config-janus-pro-7b.json").read_bytes()
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["image"] == {"codes": 576}
    assert result["bundle_mb"] < 5000
    with Image.open(tmp_path / "janus-pro-7b.png") as drawn:
        assert drawn.size == (384, 384)
