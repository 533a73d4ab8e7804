"""The runtime's codes and tokens against PyTorch's, with the same noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as PilImage

from janus_edge.model.janus import guide, unconditional
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime import sampling
from janus_edge.runtime.events import Image, Text
from janus_edge.runtime.image import prepare
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session

PROMPTS = [
    f"{count} {colour} {shape}"
    for count, colour, shape in zip(
        ["a", "two", "three", "draw five"] * 5,
        ["red", "green", "blue", "large pink", "small cyan"] * 4,
        ["circle", "star on a grey background", "cross left of a star", "square."] * 5,
        strict=True,
    )
]


def codes_of_torch(
    checkpoint: Checkpoint, session: Session, prompt: str, seed: int, scale: float, heat: float
) -> np.ndarray:
    """Uncached: the whole sequence again for every code."""
    model, encoder = checkpoint.model, session.bundle.encoder
    ids = torch.from_numpy(encoder.generation(prompt))[None]
    rows = torch.cat([ids, unconditional(ids, encoder.ids["pad"])])
    x, codes = model.embed_text(rows), []
    for position in range(model.config.num_codes):
        cond, uncond = model.image_logits(model.hidden(x)[:, -1])
        logits = guide(cond, uncond, scale) if scale != 1 else cond
        noise = sampling.gumbel(np.array([seed]), np.array([position]), len(logits), stream=0)[0, 0]
        codes.append(int((logits / heat + torch.from_numpy(noise)).argmax()))
        x = torch.cat([x, model.embed_codes(torch.tensor([[codes[-1]]] * 2))], dim=1)
    return np.array(codes)


def drawn(session: Session, request: ImageRequest) -> list[Image]:
    return [event for event in session.generate_image(request) if isinstance(event, Image)]


@torch.no_grad()
def test_codes_equal_pytorchs_on_20_prompts(checkpoint: Checkpoint, session: Session) -> None:
    assert len(set(PROMPTS)) == 20
    seen = set()
    for seed, prompt in enumerate(PROMPTS):
        (image,) = drawn(session, ImageRequest(prompt=prompt, seed=seed))
        expected = codes_of_torch(checkpoint, session, prompt, seed, scale=3.0, heat=0.9)
        assert image.codes.tolist() == expected.tolist(), prompt
        seen.add(tuple(expected))
    assert len(seen) == 20


@torch.no_grad()
def test_guidance_one_equals_the_conditional_row(checkpoint: Checkpoint, session: Session) -> None:
    request = ImageRequest(prompt=PROMPTS[0], seed=5, guidance_scale=1.0, temperature=0.8)
    (image,) = drawn(session, request)
    expected = codes_of_torch(checkpoint, session, PROMPTS[0], 5, scale=1.0, heat=0.8)
    assert image.codes.tolist() == expected.tolist()


@torch.no_grad()
def test_pixels_equal_pytorchs(checkpoint: Checkpoint, session: Session) -> None:
    (image,) = drawn(session, ImageRequest(prompt=PROMPTS[1]))
    (decoded,) = checkpoint.model.gen_vision_model.decode(torch.from_numpy(image.codes)[None])
    expected = ((decoded + 1) / 2 * 255).clamp(0, 255).byte().permute(1, 2, 0).numpy()
    difference = np.abs(image.pixels.astype(int) - expected)
    assert difference.max() <= 1  # truncation may fall either way
    assert (difference > 0).mean() < 0.01


def test_an_image_does_not_depend_on_its_neighbours(session: Session) -> None:
    many = drawn(session, ImageRequest(prompt=PROMPTS[2], seed=40, num_images=11))
    assert [image.seed for image in many] == list(range(40, 51))
    for image in (many[0], many[9], many[10]):
        (alone,) = drawn(session, ImageRequest(prompt=PROMPTS[2], seed=image.seed))
        assert alone.codes.tolist() == image.codes.tolist()


@pytest.mark.parametrize("family", ["", "flow_"])
@torch.no_grad()
def test_answers_equal_pytorchs(request: pytest.FixtureRequest, family: str) -> None:
    """Of a JanusFlow too: the learned vector before an image is in the bundle's token table."""
    checkpoint: Checkpoint = request.getfixturevalue(f"{family}checkpoint")
    session: Session = request.getfixturevalue(f"{family}session")
    model, encoder = checkpoint.model, session.bundle.encoder
    rng = np.random.default_rng(3)
    image = PilImage.fromarray(rng.integers(0, 256, (40, 20, 3), np.uint8))
    ids = encoder.question("what is it?", model.config.vision.num_patches)
    pixels = torch.from_numpy(prepare(image, model.config.vision.image_size))
    x = model.embed_prompt(torch.from_numpy(ids)[None], pixels, encoder.ids["image_placeholder"])
    said: list[int] = []
    while len(said) < 12:
        token = int(model.text_logits(model.hidden(x)[0, -1]).argmax())
        said.append(token)
        x = torch.cat([x, model.embed_text(torch.tensor([[token]]))], dim=1)
    asked = AskRequest(images=(image,), question="what is it?", max_tokens=12)
    answer = "".join(event.text for event in session.ask(asked) if isinstance(event, Text))
    assert answer and answer == encoder.decode(said).lstrip()
