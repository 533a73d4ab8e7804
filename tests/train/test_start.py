"""Starts from a language model and a SigLIP as transformers writes them, and from a codec alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models

from janus_edge.model.files import CheckpointError
from janus_edge.model.janus import Janus
from janus_edge.runtime.errors import OptionError
from janus_edge.train.codec import start_digest
from janus_edge.train.recipe import Recipe, load_recipe
from janus_edge.train.start import Sources, on_meta, prompt_note, started
from janus_edge.train.text import TEMPLATE, tokenizer_of
from tests.conftest import RANDOM
from tests.train.bench import RECIPES

TEXTS = ["a red circle", "a blue star", "what is it? a square"] * 20
SIZES = RANDOM.language
SEEN = {
    "hidden_size": RANDOM.vision.width,
    "intermediate_size": int(RANDOM.vision.width * RANDOM.vision.mlp_ratio),
    "num_hidden_layers": RANDOM.vision.layers,
    "num_attention_heads": RANDOM.vision.heads,
    "image_size": RANDOM.vision.image_size,
    "patch_size": RANDOM.vision.patch_size,
    "hidden_act": "gelu",
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of the mini recipe's sizes, with a tokenizer."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=SIZES.vocab_size,
        hidden_size=SIZES.hidden_size,
        intermediate_size=SIZES.intermediate_size,
        num_hidden_layers=SIZES.num_hidden_layers,
        num_attention_heads=SIZES.num_attention_heads,
    )
    folder = tmp_path_factory.mktemp("llama")
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer_of(TEXTS, 400, TEMPLATE).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module", params=["alone", "with text"])
def siglip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SiglipVisionModel, and a SiglipModel, whose tensors have other names."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("siglip")
    if request.param == "alone":
        transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SEEN)).save_pretrained(
            folder
        )
        return folder
    text = {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 32}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 1}
    config = transformers.SiglipConfig(text_config=text, vision_config=SEEN)
    transformers.SiglipModel(config).save_pretrained(folder)
    return folder


def test_outputs_are_transformers(llama: Path, siglip: Path, starts: dict[str, Path]) -> None:
    sources = Sources(language=llama, vision=siglip, codec=starts["mini"])
    checkpoint = started(load_recipe(RECIPES / "mini.toml"), sources, [])
    model = checkpoint.model.eval()
    assert isinstance(model, Janus)
    assert checkpoint.tokenizer_json == (llama / "tokenizer.json").read_text(encoding="utf-8")
    ids = torch.arange(9)[None]
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    reference = transformers.LlamaForCausalLM.from_pretrained(llama)
    tower = transformers.SiglipVisionModel.from_pretrained(siglip)
    with torch.no_grad():
        ours = model.text_logits(model.hidden(model.embed_text(ids)))
        assert torch.allclose(ours, reference(ids).logits, atol=1e-5)
        features = tower(pixels).last_hidden_state
        assert torch.allclose(model.vision_model(pixels), features, atol=1e-5)


def test_a_codec_alone(starts: dict[str, Path]) -> None:
    """The codec's weights are another checkpoint's; a tokenizer is made from the texts."""
    recipe = load_recipe(RECIPES / "mini.toml")
    one, same = (started(recipe, Sources(codec=starts["mini"]), TEXTS) for _ in range(2))
    whole = started(recipe, Sources(checkpoint=starts["mini"]), []).model.state_dict()
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, same.model.state_dict()[name])
        if name.startswith("gen_vision_model."):
            assert torch.equal(value, whole[name])
    assert "circle" in one.tokenizer_json


def test_an_autoencoder_apart(starts: dict[str, Path], tmp_path: Path) -> None:
    """JanusFlow's is published in another repository."""
    recipe = load_recipe(RECIPES / "mini-flow.toml")
    shutil.copytree(starts["mini-flow"], tmp_path / "start")
    (tmp_path / "start/vae").rename(tmp_path / "vae")
    sources = Sources(checkpoint=tmp_path / "start", vae=tmp_path / "vae")
    found, whole = (
        started(recipe, each, []).model.state_dict()
        for each in (sources, Sources(checkpoint=starts["mini-flow"]))
    )
    assert all(torch.equal(value, whole[name]) for name, value in found.items())
    with pytest.raises(CheckpointError, match="--vae"):
        started(recipe, Sources(checkpoint=tmp_path / "start"), [])
    with pytest.raises(OptionError, match="without --start give --codec"):
        started(recipe, Sources(vae=tmp_path / "vae"), [])
    assert recipe.vae is not None
    sizes = {"vae": recipe.vae | {"scaling_factor": 0.5}}
    other = Recipe.model_validate(recipe.model_dump() | sizes)
    with pytest.raises(OptionError, match=r"vae\.scaling_factor is .*, the recipe's 0\.5"):
        started(other, sources, [])


def test_what_does_not_fit(llama: Path, starts: dict[str, Path], tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / "mini.toml")
    codec = starts["mini"]
    with pytest.raises(OptionError, match="its gen_vision_model does not fit recipe mini"):
        started(recipe, Sources(codec=starts["mini-flow"]), TEXTS)
    raw = recipe.model_dump()
    raw["model"]["codebook"] |= {"plain": [[0, 0, 0]]}
    with pytest.raises(
        OptionError, match=r"codebook\.plain is \(\), the recipe's \(\(0, 0, 0\),\)"
    ):
        started(Recipe.model_validate(raw), Sources(codec=codec), TEXTS)
    with pytest.raises(CheckpointError, match="model_type is None; give a language model"):
        (tmp_path / "config.json").write_text("{}", encoding="utf-8")
        started(recipe, Sources(codec=codec, language=tmp_path), TEXTS)
    with pytest.raises(CheckpointError, match="model_type is llama; encoder siglip"):
        started(recipe, Sources(codec=codec, vision=llama), TEXTS)
    small = transformers.SiglipVisionConfig(**SEEN | {"num_hidden_layers": 1})
    transformers.SiglipVisionModel(small).save_pretrained(tmp_path / "small")
    with pytest.raises(CheckpointError, match=r"does not fit the recipe's \[model\]"):
        started(recipe, Sources(codec=codec, vision=tmp_path / "small"), TEXTS)


def test_what_shapes_do_not_show(starts: dict[str, Path], llama: Path, tmp_path: Path) -> None:
    """Heads, epsilons and rotations of what is given are the recipe's."""
    recipe, codec = load_recipe(RECIPES / "mini.toml"), starts["mini"]
    raw = json.loads((llama / "config.json").read_text(encoding="utf-8"))
    folder = tmp_path / "llama"
    shutil.copytree(llama, folder)
    scaled = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 10000.0}
    for change, says in (
        (
            {"num_attention_heads": 6, "num_key_value_heads": 6},
            "num_attention_heads is 6, the recipe's 3",
        ),
        ({"rms_norm_eps": 1e-2}, "rms_norm_eps is 0.01, the recipe's"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
            "rope_theta is 500000.0",
        ),
        ({"rope_parameters": scaled}, 'rope_type is "llama3"'),
        ({"hidden_act": "gelu"}, 'hidden_act is "gelu"'),
    ):
        made = {key: value for key, value in raw.items() if key != "head_dim"} | change
        (folder / "config.json").write_text(json.dumps(made), encoding="utf-8")
        with pytest.raises(CheckpointError, match=says):
            started(recipe, Sources(codec=codec, language=folder), TEXTS)
    (folder / "config.json").write_bytes(b"\xe9{")
    with pytest.raises(CheckpointError, match=r"llama/config\.json: not a config that can be read"):
        started(recipe, Sources(codec=codec, language=folder), TEXTS)
    for change, says in (
        ({"num_attention_heads": 4}, "num_attention_heads is 4, the recipe's 2"),
        ({"layer_norm_eps": 1e-2}, "layer_norm_eps is 0.01"),
        ({"hidden_act": "relu"}, "hidden_act is relu; only gelu"),
    ):
        other = transformers.SiglipVisionConfig(**SEEN | change)
        transformers.SiglipVisionModel(other).save_pretrained(tmp_path / "siglip")
        with pytest.raises(CheckpointError, match=says):
            started(recipe, Sources(codec=codec, vision=tmp_path / "siglip"), TEXTS)


def test_tokens_have_rows(starts: dict[str, Path]) -> None:
    raw = load_recipe(RECIPES / "mini.toml").model_dump()
    raw["model"]["language"]["vocab_size"] = 200  # fewer than bytes
    with pytest.raises(OptionError, match="vocab_size is 200, and the tokenizer has a token"):
        started(Recipe.model_validate(raw), Sources(codec=starts["mini"]), TEXTS)


def test_parts_of_a_flow_fit_together() -> None:
    raw = load_recipe(RECIPES / "mini-flow.toml").model_dump()
    raw["vae"]["latent_channels"] = 6
    with pytest.raises(OptionError, match="6 latent channels, the flow 4; change its"):
        on_meta(Recipe.model_validate(raw))


def test_what_a_run_starts_from_has_a_digest(starts: dict[str, Path], llama: Path) -> None:
    recipe = load_recipe(RECIPES / "mini.toml")
    found = []
    for sources in (
        Sources(checkpoint=starts["mini"]),
        Sources(codec=starts["mini"]),
        Sources(codec=starts["mini"], language=llama),
    ):
        first, again = (start_digest(sources, started(recipe, sources, TEXTS)) for _ in range(2))
        assert first == again
        found.append(first)
    checkpoint = started(recipe, sources, TEXTS)
    assert isinstance(checkpoint.model, Janus)
    with torch.no_grad():
        checkpoint.model.gen_vision_model.quant_conv.weight += 1
    assert len({*found, start_digest(sources, checkpoint)}) == 4


def test_other_prompts_are_said(starts: dict[str, Path], tmp_path: Path) -> None:
    """A checkpoint's prompts, and a recipe's that differ."""
    text = (RECIPES / "mini.toml").read_text(encoding="utf-8")
    recipe = load_recipe(RECIPES / "mini.toml")
    checkpoint = started(recipe, Sources(checkpoint=starts["mini"]), TEXTS)
    assert prompt_note(recipe, checkpoint) is None
    (tmp_path / "other.toml").write_text(text.replace('"<|User|>"', '"User"'), encoding="utf-8")
    other = load_recipe(tmp_path / "other.toml")
    assert (prompt_note(other, checkpoint) or "").startswith(
        'user_role of the checkpoint is "<|User|>", the recipe\'s "User": the recipe\'s is trained'
    )
    published = dataclasses.replace(checkpoint, prompt=None)
    assert prompt_note(recipe, published) is None
    words = Tokenizer(models.BPE()).to_str()
    older = dataclasses.replace(published, tokenizer_json=words)
    assert "is no token of the checkpoint" in (prompt_note(recipe, older) or "")
    assert prompt_note(other, older) is None
