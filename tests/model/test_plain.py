"""Plain backgrounds: their cells have one code; a thing has the same codes on all of them."""

from __future__ import annotations

import dataclasses
from itertools import islice

import torch
import torch.nn.functional as F

from janus_edge.model.codebook import VQTokenizer
from janus_edge.model.plain import foreground, on_plain
from janus_edge.model.weights import load_checkpoint
from janus_edge.things.scenes import BACKGROUNDS, Scene, render, scenes
from janus_edge.train.images import pixels
from tests.conftest import CHECKPOINTS, RANDOM

PLAIN = tuple(BACKGROUNDS.values())
WHITE = torch.tensor(PLAIN[:1]).view(1, 3, 1, 1) / 127.5 - 1


def coloured(count: int) -> list[Scene]:
    """Return some scenes on a colour other than white."""
    found = scenes("train", 6_000_000, held_out=False)
    return list(islice((scene for scene in found if scene.background != "white"), count))


def images(shown: list[Scene]) -> torch.Tensor:
    return torch.stack([pixels(render(scene)) for scene in shown])


def on_white(shown: list[Scene]) -> torch.Tensor:
    return images([dataclasses.replace(scene, background="white") for scene in shown])


def test_without_colours_an_image_stays_as_it_is() -> None:
    photo = torch.rand(2, 3, 16, 16) * 2 - 1
    drawing = on_plain(photo, (), recolour=True)
    assert drawing.pixels is photo
    assert drawing.shown.all() and not drawing.plain_cells(4).any()


def test_recoloured_images_are_nearly_those_on_white() -> None:
    shown = coloured(16)
    drawing = on_plain(images(shown), PLAIN, recolour=True)
    names = list(BACKGROUNDS)
    assert [names[i] for i in drawing.background_B] == [scene.background for scene in shown]
    wrong = (drawing.pixels - on_white(shown)).abs()
    assert wrong.mean() < 0.002  # of a range of 2; at edges alone
    still = (images(shown) - on_white(shown)).abs().mean()
    assert still > 0.05  # what the colours make
    is_white = (drawing.pixels == WHITE).all(1, keepdim=True)
    assert is_white[~drawing.shown].all()
    inside = F.max_pool2d((~drawing.shown).float(), 3, 1, 1) == 0
    assert torch.equal(drawing.pixels.masked_select(inside), images(shown).masked_select(inside))


def test_plain_cells_have_the_code_of_their_colour_alone() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(RANDOM.codebook, plain=PLAIN)
    shown, model = coloured(4), VQTokenizer(config)
    batch = F.interpolate(images(shown), size=64, mode="nearest")
    with torch.no_grad():
        codes = model.encode(batch)
        free = VQTokenizer(RANDOM.codebook)
        free.load_state_dict(model.state_dict())
        learned = free.encode(batch)
    drawing = on_plain(batch, PLAIN, recolour=False)
    is_plain = drawing.plain_cells(int(codes.shape[1] ** 0.5)).flatten(1)
    assert is_plain.any() and not is_plain.all()
    numbers = drawing.background_B[:, None].expand_as(codes)
    assert torch.equal(codes, torch.where(is_plain, numbers, learned))


def test_a_thing_of_tiny_things_has_the_same_codes_on_every_background() -> None:
    model = load_checkpoint(CHECKPOINTS / "tiny-things").model.gen_vision_model.eval()
    shown = coloured(24)
    with torch.no_grad():
        codes, white = model.encode(images(shown)), model.encode(on_white(shown))
    drawn = white != 0  # the code of white
    same = (codes == white)[drawn].float().mean()
    assert same > 0.9, same
    numbers = foreground(images(shown), torch.tensor(PLAIN) / 127.5 - 1)[1]
    is_plain = on_plain(images(shown), PLAIN, recolour=False).plain_cells(12).flatten(1)
    assert torch.equal(codes[is_plain], numbers[:, None].expand_as(codes)[is_plain])
