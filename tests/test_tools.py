from __future__ import annotations

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch

from janus_edge.export.tokenizer import TEMPLATES, complete
from janus_edge.model.janus import Janus
from janus_edge.model.published import read_config
from janus_edge.model.weights import fill, find_weights
from janus_edge.runtime.prompt import PromptEncoder
from tests.conftest import RANDOM

ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT / "tests" / "published"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = spec_from_file_location("make_checkpoint", ROOT / "tools" / "make_checkpoint.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["janus-pro-1b", "janus-pro-7b"])
def test_published_configs(tool: ModuleType, name: str) -> None:
    assert tool.published_config(name) == json.loads(
        (PUBLISHED / f"config-{name}.json").read_text()
    )


@pytest.mark.parametrize(
    ("name", "listed"), [("janus-1.3b", "1b"), ("janus-pro-1b", "1b"), ("janus-pro-7b", "7b")]
)
def test_published_names_and_shapes(tool: ModuleType, name: str, listed: str) -> None:
    with torch.device("meta"):
        model = Janus(read_config(tool.published_config(name)))
    shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    shapes |= {key: list(shape) for key, shape in tool.UNUSED.items()}
    assert shapes == json.loads((PUBLISHED / f"state-dict-{listed}.json").read_text())


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_shards_load_and_compute(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """A miniature in several shards: logits that are neither flat nor extreme."""
    monkeypatch.setattr(tool, "SHARD_BYTES", 50_000)
    monkeypatch.setattr(tool, "UNUSED", {"gen_vision_model.quantize.codebook_used": (8,)})
    tool.write_checkpoint("janus-pro-1b", tmp_path, {"model": RANDOM.to_dict()}, file)
    assert len(list(tmp_path.glob(f"*-of-*.{file.split('.')[1]}"))) > 1
    model = Janus(RANDOM).eval()
    fill(model, find_weights(model, tmp_path))
    assert model.gen_embed.weight.bfloat16().float().equal(model.gen_embed.weight)
    text = complete((tmp_path / "tokenizer.json").read_text(), RANDOM.language.vocab_size)
    encoder = PromptEncoder.load(text, TEMPLATES["janus-pro"])
    ids = torch.from_numpy(encoder.generation("a red circle"))[None]
    with torch.no_grad():
        hidden = model.hidden(model.embed_text(ids))
        for logits in (model.image_logits(hidden), model.text_logits(hidden)):
            assert 0.5 < float(logits.std()) < 8
