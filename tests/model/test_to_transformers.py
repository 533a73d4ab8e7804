"""A checkpoint of ours, written for transformers: the same logits, codes and token ids."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, JanusForConditionalGeneration

from janus_edge.model.config import JanusConfig
from janus_edge.model.janus import Janus
from janus_edge.model.to_transformers import save_for_transformers
from janus_edge.model.weights import Checkpoint, load_checkpoint
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.image import PADDING, padded
from janus_edge.runtime.prompt import PromptEncoder, PromptTemplate
from janus_edge.train.images import pixels
from janus_edge.train.initial import initialise
from tests.conftest import RANDOM
from tests.model.test_encoders import CONFIGS

PUBLISHED = dataclasses.replace(  # 32 channels are the fewest: their VQ model has 32 groups
    RANDOM,
    codebook=dataclasses.replace(RANDOM.codebook, channels=32, num_groups=32),
    gen_head=dataclasses.replace(RANDOM.gen_head, image_token_embed=RANDOM.language.hidden_size),
)


def checkpoint_of(config: JanusConfig, beside: Path) -> Checkpoint:
    torch.manual_seed(0)
    model = Janus(config).eval()
    initialise(model)
    for value in model.parameters():
        value.data += 0.05 * torch.randn_like(value)
    return dataclasses.replace(load_checkpoint(beside), model=model, samples=None)


def test_transformers_computes_the_same(checkpoint_dir: Path, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(PUBLISHED, checkpoint_dir)
    save_for_transformers(checkpoint, tmp_path, torch.float32)
    theirs, info = JanusForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ours, theirs = checkpoint.model, theirs.eval()
    assert isinstance(ours, Janus) and checkpoint.prompt is not None
    processor = AutoProcessor.from_pretrained(tmp_path)
    encoder = PromptEncoder.load(checkpoint.tokenizer_json, PromptTemplate(**checkpoint.prompt))
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8).repeat(1, 0)
    )
    ids = torch.from_numpy(encoder.question("what?", PUBLISHED.vision.num_patches))[None]
    shown = pixels(np.asarray(padded(image, 32, PADDING)))[None]
    told = processor(images=image, text="<image_placeholder> what?", generation_mode="text")
    assert int((told["input_ids"] == encoder.placeholder).sum()) == PUBLISHED.vision.num_patches
    assert torch.allclose(told["pixel_values"].float(), shown, atol=1e-5)
    with torch.no_grad():
        wanted = theirs(input_ids=ids, pixel_values=shown).logits
        x = ours.embed_prompt(ids, shown, encoder.placeholder)
        found = ours.text_logits(ours.hidden(x))
        assert torch.allclose(found, wanted, atol=1e-4 * float(wanted.abs().max()))
        codes = torch.arange(PUBLISHED.num_codes)[None] % PUBLISHED.codebook.size
        drawn = theirs.model.vqmodel.decode(codes)
        assert torch.allclose(ours.gen_vision_model.decode(codes), drawn, atol=1e-4)
        embedded = theirs.prepare_embeddings_for_image_generation(codes)
        assert torch.allclose(ours.embed_codes(codes), embedded, atol=1e-5)
        head = theirs.model.generation_head(found[..., : RANDOM.language.hidden_size])
        assert torch.allclose(
            ours.image_logits(found[..., : RANDOM.language.hidden_size]), head, atol=1e-3
        )


def test_what_is_written_is_read_back(checkpoint_dir: Path, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(PUBLISHED, checkpoint_dir)
    save_for_transformers(checkpoint, tmp_path, torch.float32)
    again = load_checkpoint(tmp_path).model
    assert again.config == PUBLISHED
    for name, value in checkpoint.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_tokenizer_without_the_placeholder_is_refused(
    checkpoint_dir: Path, tmp_path: Path
) -> None:
    made = checkpoint_of(PUBLISHED, checkpoint_dir)
    words = made.tokenizer_json.replace("<image_placeholder>", "<another_token>")
    other = dataclasses.replace(made, tokenizer_json=words)
    with pytest.raises(OptionError, match="has no token <image_placeholder>"):
        save_for_transformers(other, tmp_path / "x", torch.float16)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (RANDOM, "4 groups in the VQ tokenizer's norms"),
        (CONFIGS["vit"], "a vision encoder of kind vit"),
    ],
)
def test_what_transformers_lacks(
    config: JanusConfig, says: str, checkpoint_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=says):
        save_for_transformers(checkpoint_of(config, checkpoint_dir), tmp_path / "x", torch.float16)
    assert not (tmp_path / "x").exists()
