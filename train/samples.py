"""Images and answers of a model in training, by plain PyTorch: what it has learned so far.

Shapes: T time, N codes or tokens per image, Z latent channels, H, W latent cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from janus_edge.data.errors import BrokenSample
from janus_edge.data.source import Role
from janus_edge.data.views import padded
from janus_edge.model.janus import Janus, guide, unconditional
from janus_edge.model.janusflow import JanusFlow, unconditional_rows
from janus_edge.model.language import make_caches
from janus_edge.model.weights import Model
from janus_edge.runtime.errors import PromptError
from janus_edge.runtime.prompt import PromptEncoder
from janus_edge.train.images import pixels
from janus_edge.train.recipe import ROLES, Recipe
from janus_edge.train.steps import image_tokens

NUM_DRAWN, NUM_ASKED = 8, 4
MOST_TOKENS = 32  # of an answer
_FLOW_STEPS = 12


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What is drawn and asked again and again.

    Attributes:
        captions: Captions to draw.
        questions: Images (S, S, 3) uint8, each with a question and its right answer.
    """

    captions: tuple[str, ...]
    questions: tuple[tuple[np.ndarray, str, str], ...]


def probe_of(recipe: Recipe, dataset: Mapping[str, Role], encoder: PromptEncoder) -> Probe:
    """Return captions and questions of the data, evenly spaced.

    Args:
        recipe: Its stages say which roles are drawn; its sizes, how large images are.
        dataset: The data by role.
        encoder: Captions and questions that it refuses, or that do not fit a row, are left out, as
            in a step.
    """
    drawn = [role for stage in recipe.stages for role in stage.roles if ROLES[role] == "draw"]
    captions = [
        sample.captions[0]
        for role in drawn[-1:]
        for _, sample in _some(dataset[role], NUM_DRAWN)
        if sample.captions and _fits(recipe, encoder.generation, sample.captions[0])
    ]
    size = recipe.config.vision.image_size
    questions = [
        (padded(dataset["understanding"].shards.image(i), size), each.user, each.assistant)
        for i, sample in (_some(dataset["understanding"], NUM_ASKED) if _asks(recipe) else ())
        for each in sample.turns[:1]
        if _fits(recipe, partial(encoder.question, num_image_tokens=0), each.user)
    ]
    return Probe(captions=tuple(dict.fromkeys(captions)), questions=tuple(questions))


def _fits(recipe: Recipe, encode: Callable[[str], np.ndarray], text: str) -> bool:
    """Return False for a text that is empty, holds a token of the model, or fills a row."""
    try:
        return len(encode(text)) + image_tokens(recipe) <= recipe.context
    except PromptError:
        return False


def _asks(recipe: Recipe) -> bool:
    return any("understanding" in stage.roles for stage in recipe.stages)


def _some(role: Role, count: int) -> list[tuple[int, Any]]:
    """Return some whole samples of a role, evenly spaced, with their numbers."""
    found = []
    for place in dict.fromkeys(np.linspace(0, len(role) - 1, count).astype(int).tolist()):
        number = role.number(place)
        try:
            sample = role.sample(number)
            if sample.has_image:
                role.shards.image(number)
        except BrokenSample:
            continue
        found.append((number, sample))
    return found


def take_samples(
    model: Model, encoder: PromptEncoder, probe: Probe, settings: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], list[dict[str, str]]]:
    """Return images by caption, and answers with ``question``, ``answer`` and ``right``.

    Args:
        model: The whole model, with its codec.
        encoder: Encoder of prompts.
        probe: What is drawn and asked.
        settings: See ``draw``.
    """
    drawn = draw(model, encoder, probe.captions, settings)
    asked = [
        {"question": question, "answer": answer(model, encoder, image, question), "right": right}
        for image, question, right in probe.questions
    ]
    return dict(zip(probe.captions, drawn, strict=True)), asked


@torch.no_grad()
def draw(
    model: Model, encoder: PromptEncoder, captions: Sequence[str], settings: Mapping[str, Any]
) -> list[np.ndarray]:
    """Return an image (S, S, 3) uint8 per caption, always from the same noise.

    Args:
        model: The whole model, with its codec.
        encoder: Encoder of prompts.
        captions: What to draw.
        settings: Guidance, and a Janus's temperature.
    """
    images = []
    for number, caption in enumerate(captions):
        source = torch.Generator().manual_seed(number)
        ids = torch.from_numpy(encoder.generation(caption))[None]
        pad = encoder.ids["pad"]
        if isinstance(model, Janus):
            rgb = _codes(model, ids, pad, settings, source)
        else:
            rgb = _latent(model, ids, pad, settings, source)
        bytes_HWC = ((rgb[0].float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        images.append(bytes_HWC.permute(1, 2, 0).cpu().numpy())
    return images


def _codes(
    model: Janus, ids_1T: Tensor, pad: int, settings: Mapping[str, Any], source: torch.Generator
) -> Tensor:
    """Return the pixels (1, 3, S, S) of an image drawn code by code."""
    device, count = model.gen_embed.weight.device, model.config.num_codes
    rows = torch.cat([ids_1T, unconditional(ids_1T, pad)]).to(device)
    length = rows.shape[1]
    caches = make_caches(model.config.language, 2, length + count, device)
    decoder, x = model.language_model.model, model.embed_text(rows)
    codes: list[Tensor] = []
    at = torch.arange(length, device=device).expand(2, -1)
    for step in range(count):
        cond, uncond = model.image_logits(decoder(x, at, caches)[:, -1]).float()
        logits = guide(cond, uncond, float(settings["guidance_scale"]))
        chances = (logits / max(float(settings["temperature"]), 1e-4)).softmax(-1)
        codes.append(torch.multinomial(chances.cpu(), 1, generator=source))
        x = model.embed_codes(codes[-1].to(device).expand(2, 1))
        at = torch.full((2, 1), length + step, device=device)
    return model.gen_vision_model.decode(torch.cat(codes)[None].to(device).view(1, count))


def _latent(
    model: JanusFlow,
    ids_1T: Tensor,
    pad: int,
    settings: Mapping[str, Any],
    source: torch.Generator,
) -> Tensor:
    """Return the pixels (1, 3, S, S) of an image drawn by a few Euler steps."""
    device, size = model.beg_of_und_embed.device, model.latent_size
    prompt = ids_1T[:, :-1]  # the timestep stands in the last one's place
    other, seen = unconditional_rows(prompt, pad)
    rows = model.embed_text(torch.cat([prompt, other]).to(device))
    visible = torch.cat([torch.ones_like(seen), seen]).to(device)
    shape = (1, model.config.flow.latent_channels, size, size)
    z = torch.randn(shape, generator=source).to(device)
    for step in range(_FLOW_STEPS):
        t = torch.full((2,), step / _FLOW_STEPS, device=device)
        cond, uncond = model.velocity(rows, z.expand(2, -1, -1, -1), t, visible)
        z = z + guide(cond, uncond, float(settings["guidance_scale"]))[None] / _FLOW_STEPS
    return model.vae.to_pixels(z)


@torch.no_grad()
def answer(model: Model, encoder: PromptEncoder, image_HWC: np.ndarray, question: str) -> str:
    """Return the likeliest answer to a question about an image.

    Args:
        model: The model.
        encoder: Encoder of prompts.
        image_HWC: The image, uint8, of the model's size.
        question: The question.
    """
    device = model.language_model.lm_head.weight.device
    ids = torch.from_numpy(encoder.question(question, model.config.vision.num_patches))[None]
    seen = pixels(image_HWC)[None].to(device)
    x = model.embed_prompt(ids.to(device), seen, encoder.placeholder)
    caches = make_caches(model.config.language, 1, ids.shape[1] + MOST_TOKENS, device)
    at = torch.arange(ids.shape[1], device=device)[None]
    found: list[int] = []
    for _ in range(MOST_TOKENS):
        hidden = model.language_model.model(x, at, caches)[:, -1]
        token = int(model.text_logits(hidden).argmax())
        if token == encoder.ids["eos"]:
            break
        found.append(token)
        x = model.embed_text(torch.tensor([[token]], device=device))
        at = at[:, -1:] + 1
    return encoder.decode(found).strip()
