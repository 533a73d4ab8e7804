"""Training of the VQ tokenizer: an autoencoder first, then k-means, then the codebook in the loop.

k-means on an untrained encoder collapses, so the codebook is seeded late. Most cells of a scene are
plain background. Left alone they take most of the codes and, through normalization and attention,
carry what belongs to objects elsewhere. Therefore each background colour has one reserved code: the
decoder is given it in every plain cell, and the encoder learns to give it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from janus_edge.model.codebook import VQTokenizer, normalised_latent, straight_through
from janus_edge.shapes.scenes import BACKGROUNDS, CELL, Scene, render, scenes
from janus_edge.train.loop import LossAt, Stage, autocast

FOREGROUND_WEIGHT = 5.0
L1_WEIGHT = 0.3
COMMITMENT_WEIGHT = 0.25
CODEBOOK_DECAY = 0.98

AUTOENCODER = Stage(
    name="autoencoder",
    num_steps=650,
    batch_size=32,
    learning_rate=1e-3,
    warmup_steps=50,
    trainable=("",),
)
CODEBOOK = Stage(
    name="codebook",
    num_steps=1050,
    batch_size=32,
    learning_rate=1e-3,
    warmup_steps=20,
    decay_from=0.3,
    trainable=("encoder", "quant_conv", "post_quant_conv", "decoder"),
)


def scene_images(batch: list[Scene]) -> Tensor:
    """Return the images of scenes as pixels (B, 3, H, W) in [-1, 1]."""
    rgb = np.stack([render(scene) for scene in batch])
    return torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 127.5 - 1


def scene_batch(step: int, size: int, split: str = "train") -> list[Scene]:
    """Return the scenes of a step, of all combinations: the tokenizer sees no captions.

    Args:
        step: Number of the step.
        size: Number of scenes.
        split: One of ``SPLITS``.
    """
    return list(islice(scenes(split, step * size), size))


def foreground(batch: list[Scene], pixels_BCHW: Tensor) -> Tensor:
    """Return where a pixel is not background, (B, 1, H, W) bool.

    Args:
        batch: Scenes of the images.
        pixels_BCHW: The images, in [-1, 1].
    """
    plain = torch.tensor([BACKGROUNDS[scene.background] for scene in batch]) / 127.5 - 1
    return (pixels_BCHW - plain[:, :, None, None]).abs().amax(1, keepdim=True) > 0.02


def autoencoder_loss(model: VQTokenizer, batch_size: int) -> LossAt:
    """Return the loss of reconstruction without quantization, on the unit sphere.

    Args:
        model: The tokenizer in training.
        batch_size: Images per step.
    """

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        view = _view(model, scene_batch(step, batch_size))
        latent = torch.where(view.is_plain, view.plain, view.latent)
        return _reconstruction(model, latent, view) + F.mse_loss(view.latent, latent), {}

    return loss_at


def codebook_loss(model: VQTokenizer, batch_size: int) -> LossAt:
    """Return the loss of reconstruction through the codebook.

    The codebook follows the latents by moving averages.

    Args:
        model: The tokenizer in training; its first step sets the codebook.
        batch_size: Images per step.
    """

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        if step == 0:
            seed_codebook(model)
        view = _view(model, scene_batch(AUTOENCODER.num_steps + step, batch_size))
        codes = model.quantize.nearest(view.latent)
        quantized = model.quantize.lookup(codes, *view.latent.shape[2:])
        shown_BN = ~view.is_plain.flatten(1)
        _follow(model, view.latent.detach(), codes, shown_BN)
        target = torch.where(view.is_plain, view.plain, quantized).detach()
        commitment = F.mse_loss(view.latent, target)
        passed = torch.where(view.is_plain, view.plain, straight_through(view.latent, quantized))
        loss = _reconstruction(model, passed, view) + COMMITMENT_WEIGHT * commitment
        plain_right = (codes < len(BACKGROUNDS))[~shown_BN].float().mean().item()
        return loss, {"commitment": commitment.item(), "plain_right": plain_right}

    return loss_at


@dataclass(frozen=True, kw_only=True)
class _View:
    """A batch as the tokenizer's training sees it.

    Attributes:
        pixels: Images (B, 3, H, W).
        shown: Where a pixel is not background, (B, 1, H, W) bool.
        latent: Latents (B, E, h, w), unit vectors.
        background_B1: Reserved code of each image's background.
        plain: Vector of that code, (B, E, 1, 1).
        is_plain: Cells that show background alone, (B, 1, h, w) bool.
    """

    pixels: Tensor
    shown: Tensor
    latent: Tensor
    background_B1: Tensor
    plain: Tensor
    is_plain: Tensor


def _view(model: VQTokenizer, batch: list[Scene]) -> _View:
    """Render and encode a batch."""
    device = model.quantize.embedding.weight.device
    pixels = scene_images(batch)
    shown = foreground(batch, pixels).to(device)
    pixels = pixels.to(device)
    with autocast(device):
        latent = model.latent(pixels)
    names = list(BACKGROUNDS)
    background_B1 = torch.tensor([[names.index(scene.background)] for scene in batch])
    background_B1 = background_B1.to(device)
    return _View(
        pixels=pixels,
        shown=shown,
        latent=normalised_latent(latent.float()),
        background_B1=background_B1,
        plain=model.quantize.table()[background_B1[:, 0], :, None, None],
        is_plain=F.max_pool2d(shown.float(), CELL) == 0,
    )


@torch.no_grad()
def taught_codes(model: VQTokenizer, batch: list[Scene]) -> Tensor:
    """Return the codes (B, N) of scenes; plain cells have their background's reserved code."""
    view = _view(model, batch)
    codes_BN = model.quantize.nearest(view.latent)
    return torch.where(view.is_plain.flatten(1), view.background_B1, codes_BN)


@torch.no_grad()
def seed_codebook(model: VQTokenizer, num_batches: int = 60, iterations: int = 12) -> None:
    """Set the codebook by k-means of the cells that show something.

    The first codes stay reserved for the plain backgrounds.

    Args:
        model: Trained autoencoder, whose codebook is changed in place.
        num_batches: Batches of 32 training images.
        iterations: Iterations of k-means.
    """
    shown = []
    for index in range(num_batches):
        view = _view(model, scene_batch(index, 32))
        shown.append(view.latent.flatten(2).transpose(1, 2)[~view.is_plain.flatten(1)])
    table = model.quantize.embedding.weight
    free = len(table) - len(BACKGROUNDS)
    cells = torch.cat(shown)
    centres = cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(0))[:free]]
    for _ in range(iterations):
        nearest = torch.cat([(part @ centres.T).argmax(1) for part in torch.split(cells, 8192)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, cells)
        counts = torch.bincount(nearest, minlength=free)
        empty = counts == 0
        sums[empty] = cells[_spread(int(empty.sum()), len(cells))]
        centres = F.normalize(sums, dim=1)
    table[len(BACKGROUNDS) :] = centres
    table.copy_(F.normalize(table, dim=1))


@torch.no_grad()
def _follow(model: VQTokenizer, latent_BEHW: Tensor, codes_BN: Tensor, shown_BN: Tensor) -> None:
    """Move each code used by a cell that shows something towards the mean of its latents."""
    table = model.quantize.embedding.weight
    cells, codes = latent_BEHW.flatten(2).transpose(1, 2)[shown_BN], codes_BN[shown_BN]
    sums = torch.zeros_like(table).index_add_(0, codes, cells)
    used = torch.bincount(codes, minlength=len(table)) > 0
    used[: len(BACKGROUNDS)] = False
    moved = table[used] + (1 - CODEBOOK_DECAY) * (F.normalize(sums[used], dim=1) - table[used])
    table[used] = F.normalize(moved, dim=1)


def _reconstruction(model: VQTokenizer, latent: Tensor, view: _View) -> Tensor:
    """Return the squared and absolute error of the decoded latent, more outside the background."""
    with autocast(latent.device):
        out = model.decode_latent(latent)
    weight = 1 + (FOREGROUND_WEIGHT - 1) * view.shown
    error = out.float() - view.pixels
    return ((error.square() + L1_WEIGHT * error.abs()) * weight).sum() / (3 * weight.sum())


def _spread(count: int, total: int) -> Tensor:
    """Return ``count`` indices spread evenly over ``total``."""
    return torch.arange(count) * max(1, total // max(1, count)) % total
