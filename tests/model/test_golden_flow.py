"""JanusFlow against the reference computation's recorded outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from janus_edge.model.config import JanusFlowConfig
from janus_edge.model.janus import guide
from janus_edge.model.janusflow import JanusFlow, unconditional_rows
from janus_edge.model.matching import find_weights
from janus_edge.model.vae import VAEConfig
from janus_edge.model.weights import fill

FOLDER = Path(__file__).parent.parent / "golden" / "janusflow"
DIMS = json.loads((FOLDER / "dims.json").read_text(encoding="utf-8"))
TOKENS, FLOW = DIMS["tokens"], DIMS["flow"]
SIZES = ("channels", "latent_channels", "patch", "layers_in_middle", "norm_eps")
CONFIG = JanusFlowConfig.from_dict(
    {key: DIMS[key] for key in ("language", "vision")} | {"flow": {k: FLOW[k] for k in SIZES}}
)
# Not in the golden files; of the stride that their latents have.
AUTOENCODER = VAEConfig(
    latent_channels=4,
    block_out_channels=(8, 8, 8, 8),
    layers_per_block=1,
    norm_num_groups=4,
    scaling_factor=1.0,
)


@pytest.fixture(scope="module")
def model() -> JanusFlow:
    flow = JanusFlow(CONFIG, AUTOENCODER).eval().requires_grad_(False)
    fill(flow, find_weights(flow, FOLDER / "model.safetensors"))
    return flow


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(FOLDER / "expected.safetensors")


@pytest.fixture(scope="module")
def computed(model: JanusFlow, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every recorded tensor, computed by our model."""
    pixels, ids, prompt = (
        expected[name] for name in ("und.pixel_values", "und.input_ids", "gen.prompt_ids")
    )
    embeds = model.embed_prompt(ids[None], pixels, TOKENS["image_placeholder"])
    shown = embeds[:, (ids == TOKENS["image_placeholder"]) | (ids == TOKENS["begin_of_image"])]
    found = {
        "und.pixel_values": pixels,
        "und.input_ids": ids,
        "und.image_embeds": shown,
        "und.logits": model.text_logits(model.hidden(embeds))[0],
        "gen.prompt_ids": prompt,
        "gen.z0": expected["gen.z0"],
    }
    return found | follow(model, prompt[None, :-1], expected["gen.z0"])


def follow(model: JanusFlow, prompt_1T: Tensor, z: Tensor) -> dict[str, Tensor]:
    """Euler's steps with the whole sequence computed in each, as the reference does."""
    other, seen = unconditional_rows(prompt_1T, TOKENS["pad"])
    embeds = model.embed_text(torch.cat([prompt_1T, other]))
    seen_RT = torch.cat([torch.ones_like(seen), seen])
    found, steps = {}, FLOW["num_steps"]
    for step in range(steps):
        t = torch.full((2,), step / steps)
        v = model.velocity(embeds, z.repeat(2, 1, 1, 1), t, seen_RT)
        skip, time = model.vision_gen_enc_model(z.repeat(2, 1, 1, 1), t)
        found |= {f"gen.step{step}.encoder": skip, f"gen.step{step}.t_emb": time}
        found[f"gen.step{step}.velocity_cond_uncond"] = v
        z = z + guide(v[:1], v[1:], FLOW["guidance_scale"]) / steps
        found[f"gen.z_after_step{step}"] = z
    return found


def test_every_tensor(computed: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(expected) <= set(computed)
    for name, reference in expected.items():
        found = computed[name]
        assert found.shape == reference.shape, name
        if reference.is_floating_point():
            error = (found - reference).abs().max() / reference.abs().max()
            assert error <= 1e-4, f"{name}: {error:.1e}"
        else:
            assert torch.equal(found, reference), name


def test_masks_matter(model: JanusFlow, expected: dict[str, Tensor]) -> None:
    """The unconditional row would not match if it saw its pads."""
    other, _ = unconditional_rows(expected["gen.prompt_ids"][None, :-1], TOKENS["pad"])
    v = model.velocity(model.embed_text(other), expected["gen.z0"], torch.zeros(1))
    reference = expected["gen.step0.velocity_cond_uncond"][1:]
    assert (v - reference).abs().max() > 1e-3 * reference.abs().max()
