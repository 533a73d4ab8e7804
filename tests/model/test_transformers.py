"""Our reference model against transformers' port: two implementations of one computation.

Where transformers does otherwise than the published code, the test says so.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from janus_edge.model.janus import guide, unconditional
from janus_edge.model.language import make_caches

from .conftest import BEGIN, BOS, PAD, PLACEHOLDER, Pair, load_ours, make_theirs, small_config

TOLERANCE = 1e-4  # of the largest value, fp32


def error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def ids(*shape: int, seed: int = 0) -> Tensor:
    """Ordinary tokens."""
    return torch.randint(10, 100, shape, generator=torch.Generator().manual_seed(seed))


def pixels(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 32, 32, generator=generator) * 2 - 1


@torch.no_grad()
def test_text_logits_about_two_images(pair: Pair) -> None:
    prompt = ids(2, 45)
    prompt[:, 4:20] = PLACEHOLDER
    shown = pixels(2)
    theirs = pair.theirs(input_ids=prompt, pixel_values=shown).logits
    x = pair.ours.embed_prompt(prompt, shown, PLACEHOLDER)
    assert error(pair.ours.text_logits(pair.ours.hidden(x)), theirs) <= TOLERANCE


@torch.no_grad()
def test_image_features(pair: Pair) -> None:
    theirs = pair.theirs.model.get_image_features(pixels(3)).pooler_output
    assert error(pair.ours.embed_images(pixels(3)), theirs) <= TOLERANCE


@torch.no_grad()
def test_image_logits_and_guided_logits(pair: Pair) -> None:
    """Teacher-forced: a prompt and some codes, with and without the prompt's words."""
    prompt = torch.cat([torch.tensor([[BOS]]), ids(1, 9), torch.tensor([[BEGIN]])], dim=1)
    rows = torch.cat([prompt, unconditional(prompt, PAD)])
    codes = torch.randint(40, (1, 15), generator=torch.Generator().manual_seed(1)).expand(2, -1)
    x = torch.cat([pair.ours.embed_text(rows), pair.ours.embed_codes(codes)], dim=1)
    logits = pair.ours.image_logits(pair.ours.hidden(x))[:, 10:]
    their_x = torch.cat(
        [
            pair.theirs.get_input_embeddings()(rows),
            pair.theirs.prepare_embeddings_for_image_generation(codes),
        ],
        dim=1,
    )
    hidden = pair.theirs.model.language_model(inputs_embeds=their_x).last_hidden_state
    theirs = pair.theirs.model.generation_head(hidden)[:, 10:]
    assert error(logits, theirs) <= TOLERANCE
    guided = guide(logits[0], logits[1], 5.0)
    assert error(guided, theirs[1] + 5.0 * (theirs[0] - theirs[1])) <= TOLERANCE


@torch.no_grad()
def test_image_to_codes_and_back(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers forgets to normalise before it looks for the nearest code (the recorded codes of
    the published code in tests/golden say otherwise), so ours must not either for this."""
    vq, their_vq = pair.ours.gen_vision_model, pair.theirs.model.vqmodel
    shown = pixels(3, seed=2)
    assert error(vq.latent(shown), their_vq.quant_conv(their_vq.encoder(shown))) <= TOLERANCE
    codes, theirs = vq.encode(shown), their_vq.encode(shown).image_tokens.reshape(3, -1)
    assert not torch.equal(codes, theirs)
    assert error(vq.decode(codes), their_vq.decode(codes)) <= TOLERANCE
    monkeypatch.setattr(vq.quantize, "l2_norm", False)
    assert torch.equal(vq.encode(shown), theirs)
    assert len(theirs.unique()) > 5


@torch.no_grad()
def test_the_whole_loop_code_for_code(pair: Pair) -> None:
    """Greedy, so that no top-k takes part: transformers would sample from the 50 likeliest codes
    by default, the published code from all. Prompts of one length, so that there is no padding:
    transformers carries the prompt's mask into every step, the published code has none."""
    prompt = torch.cat(
        [torch.full((2, 1), BOS), ids(2, 8, seed=3), torch.full((2, 1), BEGIN)], dim=1
    )
    settings = GenerationConfig(
        guidance_scale=5.0, do_sample=False, max_length=26, pad_token_id=PAD, bos_token_id=BOS
    )
    settings.generation_kwargs = {"boi_token_id": BEGIN}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pair.theirs.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            generation_mode="image",
            generation_config=settings,
        )
    assert theirs.shape == (2, 16)
    assert torch.equal(greedy(pair, prompt, 16), theirs)
    assert len(theirs.unique()) > 3


def greedy(pair: Pair, prompt_BT: Tensor, steps: int) -> Tensor:
    """Our cached loop."""
    model, batch = pair.ours, len(prompt_BT)
    rows = torch.cat([prompt_BT, unconditional(prompt_BT, PAD)])
    caches = make_caches(model.config.language, 2 * batch, rows.shape[1] + steps)
    x, positions = model.embed_text(rows), torch.arange(rows.shape[1]).expand(2 * batch, -1)
    codes = []
    for _ in range(steps):
        logits = model.image_logits(model.language_model.model(x, positions, caches)[:, -1])
        codes.append(guide(logits[:batch], logits[batch:], 5.0).argmax(-1))
        x, positions = model.embed_codes(codes[-1]).repeat(2, 1)[:, None], positions[:, -1:] + 1
    return torch.stack(codes, dim=1)


@torch.no_grad()
def test_prompts_of_different_lengths(pair: Pair) -> None:
    """Their left padding, masked and with positions shifted, is our row that starts at 0: padding
    on the right is never seen, and the next step writes over it."""
    long, short = ids(1, 12, seed=4), ids(1, 7, seed=5)
    padded = torch.cat([torch.full((1, 5), PAD), short], dim=1)
    mask = (torch.arange(12) >= 5).long()[None]
    theirs = pair.theirs(
        input_ids=padded, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)
    ).logits[:, -1]
    rows = torch.cat([long, torch.cat([short, torch.full((1, 5), PAD)], dim=1)])
    ours = pair.ours.text_logits(pair.ours.hidden(pair.ours.embed_text(rows)))[1:, 6]
    assert error(ours, theirs) <= TOLERANCE


@pytest.mark.slow
@torch.no_grad()
def test_at_the_shape_of_janus_pro_1b(tmp_path: Path) -> None:
    """Random weights; 9 GB of memory and of disk, some minutes on two cores."""
    config = small_config(
        text_config__hidden_size=2048,
        text_config__intermediate_size=5632,
        text_config__num_hidden_layers=24,
        text_config__num_attention_heads=16,
        text_config__num_key_value_heads=16,
        text_config__vocab_size=102400,
        text_config__max_position_embeddings=16384,
    ) | {"vision_config": {}, "vq_config": {}}
    theirs: Any = make_theirs(config, tmp_path)
    prompt, shown = ids(1, 600), torch.rand(1, 3, 384, 384) * 2 - 1
    prompt[:, 4:580] = PLACEHOLDER
    codes = torch.randint(16384, (1, 576), generator=torch.Generator().manual_seed(1))
    code_x = theirs.prepare_embeddings_for_image_generation(codes[:, :20])
    code_hidden = theirs.model.language_model(inputs_embeds=code_x).last_hidden_state
    expected = {
        "text logits": theirs(input_ids=prompt, pixel_values=shown).logits[:, 580:],
        "image logits": theirs.model.generation_head(code_hidden),
        "image": theirs.model.vqmodel.decode(codes),
    }
    their_vq = theirs.model.vqmodel
    expected["latent"] = their_vq.quant_conv(their_vq.encoder(shown))
    del theirs, their_vq
    ours = load_ours(tmp_path)
    x = ours.embed_prompt(prompt, shown, PLACEHOLDER)
    found = {
        "text logits": ours.text_logits(ours.hidden(x)[:, 580:]),
        "image logits": ours.image_logits(ours.hidden(ours.embed_codes(codes[:, :20]))),
        "image": ours.gen_vision_model.decode(codes),
        "latent": ours.gen_vision_model.latent(shown),
    }
    for name, theirs_value in expected.items():
        assert error(found[name], theirs_value) <= TOLERANCE, name
