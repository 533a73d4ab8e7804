"""The runtime's flow against PyTorch's, which computes the whole sequence anew in every step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from janus_edge.model.janus import guide
from janus_edge.model.janusflow import unconditional_rows
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime.errors import OptionError, PromptError
from janus_edge.runtime.events import Event, Finished, Image, Preview, Progress
from janus_edge.runtime.flow import FlowSettings, integrate
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.sampling import STREAMS, normal
from janus_edge.runtime.session import Session

PROMPTS = (
    "a star",
    "three red circles",
    "a small purple triangle above an orange cross on a grey background",
    "draw two large cyan squares.",
)


@torch.no_grad()
def latent_of_torch(
    checkpoint: Checkpoint, session: Session, prompt: str, seed: int, settings: FlowSettings
) -> np.ndarray:
    model, encoder = checkpoint.model, session.bundle.encoder
    ids = torch.from_numpy(encoder.generation(prompt))[None, :-1]
    other, seen = unconditional_rows(ids, encoder.ids["pad"])
    embeds = model.embed_text(torch.cat([ids, other]))
    seen_RT = torch.cat([torch.ones_like(seen), seen])

    def velocity(z: np.ndarray, t: float, guided: bool) -> np.ndarray:
        rows = 2 if guided else 1
        latent = torch.from_numpy(z).repeat(rows, 1, 1, 1)
        v = model.velocity(embeds[:rows], latent, torch.full((rows,), t), seen_RT[:rows])
        return (guide(v[:1], v[1:], settings.guidance_scale) if guided else v).numpy()

    z0 = normal(np.array([seed]), (4, 8, 8), STREAMS["latent"])
    return list(integrate(velocity, z0, settings))[-1].z[0]


def events_of(session: Session, **options: object) -> list[Event]:
    return list(session.generate_image(ImageRequest(**({"prompt": "a star"} | options))))


def drawn(session: Session, **options: object) -> list[Image]:
    return [event for event in events_of(session, **options) if isinstance(event, Image)]


@pytest.mark.parametrize("seed", range(len(PROMPTS)))
def test_the_cached_prompt_changes_nothing(
    flow_checkpoint: Checkpoint, flow_session: Session, seed: int
) -> None:
    """Prompt computed once, unconditional row without its pads: as recomputing with the mask."""
    settings = FlowSettings(guidance_scale=2.0, num_steps=5, solver="euler")
    (image,) = drawn(flow_session, prompt=PROMPTS[seed], seed=seed)
    expected = latent_of_torch(flow_checkpoint, flow_session, PROMPTS[seed], seed, settings)
    assert np.abs(image.latent - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("solver", ["ab2", "heun"])
def test_every_setting_reaches_the_loop(
    flow_checkpoint: Checkpoint, flow_session: Session, solver: str
) -> None:
    options = {
        "guidance_scale": 3.0,
        "num_steps": 4,
        "solver": solver,
        "shift": 2.0,
        "guidance_start": 0.1,
        "guidance_end": 0.8,
    }
    (image,) = drawn(flow_session, seed=9, **options)
    expected = latent_of_torch(flow_checkpoint, flow_session, "a star", 9, FlowSettings(**options))
    assert np.abs(image.latent - expected).max() <= 1e-5 * np.abs(expected).max()
    (plain,) = drawn(flow_session, seed=9, num_steps=4)
    assert np.abs(plain.latent - image.latent).max() > 0.01


def test_guidance_of_one_is_the_conditional_row(flow_session: Session) -> None:
    (one,) = drawn(flow_session, guidance_scale=1.0)
    (off,) = drawn(flow_session, guidance_scale=7.0, guidance_end=0.0)
    assert np.array_equal(one.latent, off.latent)


@torch.no_grad()
def test_pixels_equal_pytorchs(flow_checkpoint: Checkpoint, flow_session: Session) -> None:
    (image,) = drawn(flow_session)
    (decoded,) = flow_checkpoint.model.vae.to_pixels(torch.from_numpy(image.latent)[None])
    expected = ((decoded + 1) / 2 * 255).clamp(0, 255).byte().permute(1, 2, 0).numpy()
    assert image.pixels.shape == (32, 32, 3)
    assert np.abs(image.pixels.astype(int) - expected).max() <= 1  # truncation falls either way


def test_an_image_does_not_depend_on_its_neighbours(flow_session: Session) -> None:
    many = drawn(flow_session, prompt=(PROMPTS[2], PROMPTS[0]), seed=40, num_images=3)
    assert [image.seed for image in many] == [40, 41, 42] * 2
    for image, prompt in ((many[1], PROMPTS[2]), (many[5], PROMPTS[0])):
        (alone,) = drawn(flow_session, prompt=prompt, seed=image.seed)
        assert np.array_equal(alone.pixels, image.pixels)


def test_events_come_in_order(flow_session: Session) -> None:
    events = events_of(flow_session, num_images=2, num_steps=3, previews=True)
    kinds = [type(event) for event in events]
    assert kinds == ([Progress, Preview] * 3 + [Image]) * 2 + [Finished]
    progress = [event for event in events if isinstance(event, Progress)]
    assert [event.done for event in progress] == list(range(1, 7))
    assert {(event.total, event.unit) for event in progress} == {(6, "steps")}
    previews = [event for event in events if isinstance(event, Preview)]
    assert {event.pixels.shape for event in previews} == {(32, 32, 3)}
    assert not np.array_equal(previews[0].pixels, previews[2].pixels)
    (finished,) = (event for event in events if isinstance(event, Finished))
    parts = dict(finished.timings_ms)
    total = parts.pop("total")
    assert set(parts) == {"open", "prefill", "flow", "image_decoder"}
    assert 0 < sum(parts.values()) <= total


def test_the_papers_settings(flow_session: Session) -> None:
    settings = flow_session.image_settings(ImageRequest(prompt="a", reference=True, shift=2.0))
    assert settings == FlowSettings(guidance_scale=2.0, num_steps=30, solver="euler", shift=2.0)


def test_settings_of_another_family_are_refused(flow_session: Session, session: Session) -> None:
    with pytest.raises(OptionError, match="temperature means nothing to random-flow"):
        flow_session.generate_image(ImageRequest(prompt="a", temperature=1.0))
    with pytest.raises(OptionError, match="num_steps means nothing to random, a janus bundle"):
        session.generate_image(ImageRequest(prompt="a", num_steps=3))
    with pytest.raises(OptionError, match='solver is "magic"; give one of euler, ab2, heun'):
        ImageRequest(prompt="a", solver="magic")


def test_a_prompt_that_leaves_no_room(flow_session: Session) -> None:
    with pytest.raises(PromptError, match="has room for 80"):
        flow_session.generate_image(ImageRequest(prompt="star " * 90))
