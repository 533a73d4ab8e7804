"""The reference model against the reference computation's recorded outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from janus_edge.model.config import JanusConfig
from janus_edge.model.janus import Janus, guide, unconditional
from janus_edge.model.language import make_caches
from janus_edge.model.matching import find_weights
from janus_edge.model.weights import fill

FOLDER = Path(__file__).parent.parent / "golden" / "janus"
DIMS = json.loads((FOLDER / "dims.json").read_text(encoding="utf-8"))
TOKENS, SCALE = DIMS.pop("tokens"), DIMS.pop("guidance_scale")


@pytest.fixture(scope="module")
def model() -> Janus:
    janus = Janus(JanusConfig.from_dict(DIMS)).eval().requires_grad_(False)
    fill(janus, find_weights(janus, FOLDER / "model.safetensors"))
    return janus


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(FOLDER / "expected.safetensors")


@pytest.fixture(scope="module")
def computed(model: Janus, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every recorded tensor, computed by our model."""
    pixels, prompt = expected["und.pixel_values"], expected["gen.prompt_ids"]
    embeds = model.embed_prompt(
        expected["und.input_ids"][None], pixels, TOKENS["image_placeholder"]
    )
    rows = torch.cat([prompt[None], unconditional(prompt[None], TOKENS["pad"])])
    logits, guided, codes = greedy(model, rows, len(expected["gen.codes_greedy"]))
    return {
        "und.pixel_values": pixels,
        "und.input_ids": expected["und.input_ids"],
        "und.image_embeds": model.embed_images(pixels),
        "und.logits": model.text_logits(model.hidden(embeds))[0],
        "vq.encode_indices": model.gen_vision_model.encode(pixels)[0],
        "gen.prompt_ids": prompt,
        "gen.rows": rows,
        "gen.code_embeds": model.embed_codes(torch.arange(model.config.codebook.size)),
        "gen.logits_cond_uncond": logits,
        "gen.guided_logits": guided,
        "gen.codes_greedy": codes,
        "gen.image": model.gen_vision_model.decode(codes[None]),
    }


def greedy(model: Janus, rows: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cached greedy decoding under guidance: logits of both rows, guided logits, codes."""
    caches = make_caches(model.config.language, 2, rows.shape[1] + steps)
    x, positions = model.embed_text(rows), torch.arange(rows.shape[1]).expand(2, -1)
    logits, guided, codes = [], [], []
    for _ in range(steps):
        hidden = model.language_model.model(x, positions, caches)[:, -1]
        logits.append(model.image_logits(hidden))
        guided.append(guide(logits[-1][0], logits[-1][1], SCALE))
        codes.append(guided[-1].argmax())
        x, positions = model.embed_codes(codes[-1]).expand(2, 1, -1), positions[:, -1:] + 1
    return torch.stack(logits), torch.stack(guided), torch.stack(codes)


def test_every_recorded_tensor(computed: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert computed.keys() == expected.keys()
    for name, reference in expected.items():
        if reference.dtype == torch.int64:
            assert torch.equal(computed[name], reference), name
            continue
        error = (computed[name] - reference).abs().max() / reference.abs().max()
        assert error <= 1e-4, f"{name}: {error:.1e}"
