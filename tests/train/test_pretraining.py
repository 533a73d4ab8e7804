"""Codec and vision encoder from nothing: what the losses teach; a run keeps what is done."""

from __future__ import annotations

import dataclasses
import os
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from janus_edge.data.content import LabelledBox
from janus_edge.data.source import open_source
from janus_edge.model.codebook import VQTokenizer
from janus_edge.model.config import VisionConfig
from janus_edge.model.encoders import make_encoder
from janus_edge.model.janus import Janus
from janus_edge.model.plain import foreground
from janus_edge.model.vae import VAE, VAEConfig
from janus_edge.model.vision import VisionModel
from janus_edge.model.weights import load_checkpoint
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.prompt import PromptEncoder
from janus_edge.shapes.scenes import BACKGROUNDS, CELL, SIZES, Scene, Thing, render, scenes
from janus_edge.train.engine import Settings
from janus_edge.train.images import pixels
from janus_edge.train.loop import Stage, run_stage
from janus_edge.train.optimizers import optimizers_of
from janus_edge.train.patch_labels import directions, patch_loss, places, shown_in
from janus_edge.train.pretraining import _BY_MUON, Feed, pretrain, scale_latents
from janus_edge.train.recipe import Recipe, load_recipe
from janus_edge.train.run import How, train_recipe
from janus_edge.train.siglip import SiglipTrainee, siglip_loss
from janus_edge.train.start import Sources, started
from janus_edge.train.vae import latent_scale, plain_variance, vae_loss
from janus_edge.train.varied import varied
from janus_edge.train.vq import (
    TokenizerTrainee,
    autoencoder_loss,
    codebook_loss,
    seed_codebook,
)
from janus_edge.train.world import World
from tests.conftest import RANDOM
from tests.data.shards import as_json, image_file, write_tar
from tests.train.bench import RECIPES
from tests.train.conftest import NAMES

PLAIN = tuple(BACKGROUNDS.values())
PLAIN_K3 = torch.tensor(PLAIN) / 127.5 - 1
ONE = World(0, 1, torch.device("cpu"))
VAE_CONFIG = VAEConfig(
    latent_channels=4,
    block_out_channels=(4, 8, 8),
    layers_per_block=1,
    norm_num_groups=4,
    scaling_factor=1.0,
)


def shown(step: int, count: int) -> list[Scene]:
    return list(islice(scenes("train", step * count), count))


def images(step: int, count: int) -> torch.Tensor:
    return torch.stack([pixels(render(scene)) for scene in shown(step % 1000, count)])


def small(step: int, count: int) -> torch.Tensor:
    return F.interpolate(images(step, count), size=32)


def stage(steps: int, rate: float, trainable: tuple[str, ...] = ("",)) -> Stage:
    return Stage(name="s", num_steps=steps, batch_size=8, learning_rate=rate, trainable=trainable)


def test_the_background_is_the_plain_colour_of_most_pixels() -> None:
    batch = shown(0, 16)
    is_shown, background = foreground(images(0, 16), PLAIN_K3)
    names = list(BACKGROUNDS)
    assert [names[i] for i in background] == [scene.background for scene in batch]
    part = is_shown.float().mean((1, 2, 3))
    assert (part > 0.02).all() and (part < 0.7).all()


def test_a_photograph_has_no_background() -> None:
    photo = torch.rand(2, 3, 16, 16) * 2 - 1
    for plain in (torch.empty(0, 3), PLAIN_K3 + 7):
        is_shown, background = foreground(photo, plain)
        assert is_shown.all() and background.tolist() == [0, 0]


def test_a_tokenizer_learns_images_and_reserved_codes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = VQTokenizer(dataclasses.replace(RANDOM.codebook, plain=PLAIN))
    trainee = TokenizerTrainee(model)
    parts = ("model.encoder", "model.quant_conv", "model.post_quant_conv", "model.decoder")
    loss = autoencoder_loss(trainee, small, 8)
    before = loss(900)[1]["psnr"]
    run_stage(trainee, stage(60, 5e-3, parts), loss, tmp_path)
    assert loss(900)[1]["psnr"] > before + 4
    last = codebook_loss(trainee, small, 8, 60)
    last(0)  # sets the codebook
    codes = dataclasses.replace(stage(200, 3e-3, parts), name="codes")
    run_stage(trainee, codes, last, tmp_path)
    _, metrics = last(900)
    assert metrics["plain_right"] > 0.3  # of 40 codes; how many exactly depends on the processor
    with torch.no_grad():
        assert len(model.encode(small(901, 64)).unique()) > 10


def test_an_autoencoder_learns(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = VAE(VAE_CONFIG)
    loss_at = vae_loss(model, images, PLAIN_K3, 4)
    assert torch.equal(loss_at(3)[0], loss_at(3)[0])
    before = loss_at(100)[0].item()
    run_stage(model, stage(12, 1e-2), loss_at, tmp_path)
    loss, metrics = loss_at(100)
    assert loss.item() < 0.7 * before
    assert 0 < metrics["reconstruction"] < loss.item()


def test_plain_cells_are_those_without_foreground() -> None:
    is_shown, background = foreground(images(0, 6), PLAIN_K3)
    mean = background[:, None, None, None].float().expand(6, 4, 16, 16).clone()
    assert plain_variance(mean, background, is_shown) == 0
    things = F.max_pool2d(is_shown.float(), 4) > 0
    assert plain_variance(mean + 7 * things, background, is_shown) == 0
    noisy = plain_variance(mean + torch.randn_like(mean), background, is_shown)
    assert noisy.item() == pytest.approx(1, abs=0.1)
    assert plain_variance(mean, background, torch.ones_like(is_shown)) == 0


def test_scaled_latents_have_unit_variance_and_the_same_images() -> None:
    torch.manual_seed(0)
    model = VAE(VAE_CONFIG).eval()
    seen = images(0, 4)
    with torch.no_grad():
        before = model.decode(model.encode(seen)[0])
        scale_latents(model, latent_scale(model, images))
        assert latent_scale(model, images) == pytest.approx(1, rel=1e-3)
        assert torch.allclose(model.decode(model.encode(seen)[0]), before, atol=1e-4)


def test_captions_teach_the_vision_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = VisionConfig(image_size=64, patch_size=16, width=32, layers=2, heads=2)
    trainee = SiglipTrainee(VisionModel(config), 32, 20)

    def captioned(step: int, count: int) -> tuple[torch.Tensor, list[list[int]]]:
        batch = shown(step, count)
        names = list(BACKGROUNDS)
        words = [[names.index(each.background), 5 + len(each.things)] for each in batch]
        return images(step, count), words

    loss_at = siglip_loss(trainee, captioned, 24)
    assert loss_at(500)[1]["retrieval"] < 0.4
    run_stage(trainee, stage(60, 3e-3), loss_at, tmp_path)
    assert loss_at(500)[1]["retrieval"] > 0.6  # the number of things is harder to see


def test_a_vision_encoder_learns_what_each_patch_shows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = VisionConfig(image_size=64, patch_size=16, width=48, layers=2, heads=2)
    encoder = VisionModel(config)

    def labelled(step: int, count: int) -> tuple[torch.Tensor, list[tuple[LabelledBox, ...]]]:
        batch = shown(step, count)
        boxes = [
            tuple(LabelledBox(thing.colour, box) for thing, box in boxed(scene)) for scene in batch
        ]
        return images(step, count), boxes

    loss_at = patch_loss(encoder, labelled, 24, 16, directions(torch.randn(256, 32), ascii_of, 40))
    before, start = loss_at(500)
    assert start["right"] < 0.3
    run_stage(encoder, stage(600, 3e-3), loss_at, tmp_path)
    loss, end = loss_at(500)
    assert loss.item() < 0.7 * before.item() and end["right"] > 0.6, (loss, before, end)


def ascii_of(text: str) -> list[int]:
    return [*text.encode()]


def boxed(scene: Scene) -> list[tuple[Thing, tuple[float, float, float, float]]]:
    sides = [SIZES[thing.size][0] * CELL for thing in scene.things]
    return [
        (thing, (thing.centre[0] - side / 2, thing.centre[1] - side / 2, side, side))
        for thing, side in zip(scene.things, sides, strict=True)
    ]


def test_labels_lie_in_the_patches_that_their_boxes_reach() -> None:
    boxes = (
        LabelledBox("cat", (8, 0, 9, 16)),
        LabelledBox("cat", (40, 40, 100, 8.2)),
        LabelledBox("hat", (16, 16, 16, 16)),
        LabelledBox("far", (70, 70, 5, 5)),
        LabelledBox("before", (-9, -9, 5, 5)),
    )
    cat, hat, far, before, none = shown_in(boxes, ["cat", "hat", "far", "before", "none"], 4, 16)
    assert cat.reshape(4, 4).astype(int).tolist() == [
        [1, 1, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 1, 1],
        [0, 0, 0, 0],
    ]
    assert hat.nonzero()[0].tolist() == [5] and not (far | before | none).any()
    places_NP = places(4)
    assert places_NP.shape == (16, 8) and places_NP[6].nonzero()[:, 0].tolist() == [1, 4 + 2]


def test_directions_are_the_sum_of_their_tokens() -> None:
    vectors = torch.randn(256, 64)
    found = directions(vectors + 3, ascii_of, 40)
    assert torch.equal(found("b"), directions(vectors + 3, ascii_of, 40)("b"))  # in every run
    assert found("b").norm().item() == pytest.approx(1)
    both = found("b") + found("c")
    assert torch.allclose(found("bc"), both / both.norm(), atol=1e-6)
    assert torch.equal(found("bcb"), found("bc"))
    between = torch.stack([found(chr(i)) for i in range(40, 120)])
    assert abs((between @ between.T).fill_diagonal_(0).mean()) < 0.05  # what all share is left out


def test_varied_images_keep_things_in_their_boxes() -> None:
    image, box = torch.ones(24, 3, 64, 64), (16.0, 24.0, 20.0, 12.0)
    image[:, :, 24:36, 16:36] = -1
    boxes = [(LabelledBox("dark", box), LabelledBox("all", (0, 0, 64, 64)))] * 24
    found, placed = varied(image, boxes, np.random.default_rng(0))
    again, _ = varied(image, boxes, np.random.default_rng(0))
    assert torch.equal(found, again) and found.abs().max() <= 1
    assert len({each[0].box for each in placed}) == 24
    for pixels_CHW, (each, whole) in zip(found, placed, strict=True):
        assert shown_in((whole,), ["all"], 32, 2).all()  # the rim, too
        rows, columns = torch.nonzero(pixels_CHW.mean(0) < 0, as_tuple=True)
        x, y, width, height = each.box
        assert abs(columns.min() - x) < 4 and abs(columns.max() + 1 - x - width) < 4
        assert abs(rows.min() - y) < 4 and abs(rows.max() + 1 - y - height) < 4


def test_boxes_are_asked_for_where_they_are_needed(dataset: Path, tmp_path: Path) -> None:
    raw = from_nothing("mini").model_dump()
    raw["pretraining"]["vision"] |= {"learns_from": "boxes"}
    how = How(settings=Settings(bf16=False, rows_at_once=16))
    narrow = raw | {"model": raw["model"] | {"vision": raw["model"]["vision"] | {"patch_size": 1}}}
    with pytest.raises(ValueError, match=r"boxes of .* need a vision\.width above"):
        Recipe.model_validate(narrow)
    with pytest.raises(OptionError, match="generation: no sample that was tried has boxes, from"):
        train_recipe(Recipe.model_validate(raw), dataset, tmp_path, Sources(), how, print)
    raw["pretraining"]["vision"] |= {"learns_from": "captions", "role": "understanding"}
    with pytest.raises(OptionError, match="understanding: no sample that was tried has captions"):
        train_recipe(Recipe.model_validate(raw), dataset, tmp_path, Sources(), how, print)
    raw["pretraining"]["vision"] |= {"role": "photos"}
    with pytest.raises(OptionError, match=r"no photos, from which pretraining\.vision"):
        train_recipe(Recipe.model_validate(raw), dataset, tmp_path, Sources(), how, print)
    assert not list(tmp_path.iterdir())  # nothing was trained, and the folder is free


def test_images_without_boxes_are_left_out(tmp_path: Path) -> None:
    box = [{"label": "star", "box": [0, 0, 4, 4]}]
    members = []
    for i in range(12):
        said = as_json(caption="a star", labelled_boxes=box if i < 2 else [])
        members += [(f"{i}.png", image_file()), (f"{i}.json", said)]
    (tmp_path / "generation").mkdir()
    write_tar(tmp_path / "generation" / "a.tar", members)
    roles = open_source(tmp_path).roles
    feed = Feed(load_recipe(RECIPES / "mini.toml"), roles, cast(PromptEncoder, None), print)
    labelled, sizes = feed.labelled("generation"), []
    for step in range(12):
        found, boxes = labelled(step, 4)
        assert len(found) == len(boxes) > 0 and all(len(each) == 1 for each in boxes)
        sizes.append(len(found))
    assert set(sizes) <= {1, 2}  # of four images, two at most have boxes


def from_nothing(name: str) -> Recipe:
    recipe = load_recipe(RECIPES / f"{name}.toml")
    plan = {"steps": 3, "batch_size": 4, "learning_rate": 1e-3}
    vision = plan | {"optimizer": "muon"}
    raw = recipe.model_dump()
    if recipe.family == "janus":
        raw["model"]["codebook"] |= {"plain": [list(each) for each in PLAIN], "recoloured": True}
        raw["pretraining"] = {"codec": plan | {"autoencoder_steps": 2}, "vision": vision}
    else:
        raw["pretraining"] = {"codec": plan | {"plain": PLAIN}, "vision": vision}
    return Recipe.model_validate(raw)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_from_nothing(name: str, dataset: Path, tmp_path: Path) -> None:
    how = How(settings=Settings(bf16=False, rows_at_once=16))
    recipe, said = from_nothing(name), []
    made = train_recipe(recipe, dataset, tmp_path, Sources(), how, said.append)
    model = load_checkpoint(made).model
    codec = model.gen_vision_model if isinstance(model, Janus) else model.vae
    assert all(value.isfinite().all() for value in codec.state_dict().values())
    if isinstance(model, Janus):
        assert model.config.codebook.plain == PLAIN and model.config.codebook.recoloured
    kept = sorted(path.name for path in (tmp_path / "pretraining").iterdir())
    assert kept == ["codec", "codec.safetensors", "vision", "vision.safetensors"]
    state = torch.load(tmp_path / "pretraining" / "vision" / "vision.pt", weights_only=True)
    assert len(state["optimizer"]["state"]) > len(state["second_optimizer"]["state"]) > 4
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("pretraining/**/*")}
    again = train_recipe(recipe, dataset, tmp_path, Sources(), how, said.append)
    assert again == made  # all of it is read back
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize("kind", ["siglip", "vit"])
def test_muon_takes_the_blocks_of_each_encoder(kind: str) -> None:
    encoder = make_encoder(dataclasses.replace(RANDOM.vision, encoder=kind))
    made = optimizers_of(
        encoder.named_parameters(), _BY_MUON["muon"], rate=1, betas=(0.9, 0.95), decay=0
    )
    num_matrices = [len(group["params"]) for each in made[1:] for group in each.param_groups]
    assert num_matrices == [4 * RANDOM.vision.layers]


@pytest.mark.parametrize("damage", ["cut", "wider"])
def test_a_kept_part_that_does_not_fit_is_named(dataset: Path, tmp_path: Path, damage: str) -> None:
    how, recipe = How(settings=Settings(bf16=False, rows_at_once=16)), from_nothing("mini")
    checkpoint = started(recipe, Sources(), ["a red circle"])
    kept = tmp_path / "pretraining" / "codec.safetensors"
    kept.parent.mkdir()
    assert isinstance(checkpoint.model, Janus)
    state = checkpoint.model.gen_vision_model.state_dict()
    if damage == "wider":
        state["quant_conv.weight"] = torch.zeros(9, 9, 1, 1)
    save_file(state, kept)
    if damage == "cut":
        os.truncate(kept, 1000)
    with pytest.raises(OptionError, match=r"codec\.safetensors: damaged, or of other sizes"):
        train_recipe(recipe, dataset, tmp_path, Sources(), how, print)


def test_images_that_are_all_plain_are_refused() -> None:
    model = VQTokenizer(dataclasses.replace(RANDOM.codebook, plain=PLAIN))
    empty = PLAIN_K3[0].view(1, 3, 1, 1).expand(4, 3, 32, 32)
    with pytest.raises(OptionError, match="show nothing but a plain background"):
        seed_codebook(TokenizerTrainee(model), lambda step, count: empty, 4)


def test_several_processes_do_not_pretrain(dataset: Path, tmp_path: Path) -> None:
    recipe = from_nothing("mini")
    checkpoint = started(recipe, Sources(), ["a red circle"])
    two = World(0, 2, torch.device("cpu"))
    with pytest.raises(OptionError, match="without torchrun until stage 1 begins"):
        pretrain(recipe, Sources(), checkpoint, {}, tmp_path, two, lambda found: None)


def test_a_codec_that_is_given_is_not_trained(
    dataset: Path, starts: dict[str, Path], tmp_path: Path
) -> None:
    sources = Sources(checkpoint=starts["mini"])
    colours = from_nothing("mini")
    with pytest.raises(OptionError, match=r"codebook\.plain is None, the recipe's"):
        started(colours, sources, [])
    recipe = load_recipe(RECIPES / "mini.toml").model_copy(
        update={"pretraining": colours.pretraining}
    )
    checkpoint = started(recipe, sources, [])
    pretrain(recipe, sources, checkpoint, {}, tmp_path, ONE, lambda found: None)
    assert not list(tmp_path.iterdir())


def test_codes_start_where_their_vectors_are(starts: dict[str, Path]) -> None:
    """Also with another checkpoint's tokenizer, which comes after the initial weights."""
    recipe = load_recipe(RECIPES / "mini.toml")
    model = started(recipe, Sources(codec=starts["mini"]), ["a star"]).model
    assert isinstance(model, Janus)
    table = model.gen_vision_model.quantize.table()
    assert torch.equal(model.gen_embed.weight, 2 * table)
    assert torch.equal(
        table, load_checkpoint(starts["mini"]).model.gen_vision_model.quantize.table()
    )
