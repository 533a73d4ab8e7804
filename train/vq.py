"""Training of a VQ tokenizer: an autoencoder first, then k-means, then the codebook in the loop.

k-means on an untrained encoder collapses, so the codebook is seeded late. Drawings on a plain
background leave most cells plain. Left alone they take most of the codes and, through normalization
and attention, carry what belongs to things elsewhere. Therefore each background colour that the
config names has one reserved code (``model/plain.py``): the decoder is given it in every plain
cell, and the encoder is pulled to it. Photographs have no such colours; all cells are learned.

Shapes: B batch, E code dimension, H, W pixels, h, w cells, N = h * w, K reserved codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_edge.model.codebook import VQTokenizer
from janus_edge.model.plain import on_plain
from janus_edge.runtime.errors import OptionError
from janus_edge.train.loop import LossAt, autocast

FOREGROUND_WEIGHT = 5.0
L1_WEIGHT = 0.3
EDGE_WEIGHT = 0.2  # of the differences between neighbouring pixels
COMMITMENT_WEIGHT = 0.25
LATENT_NOISE = 0.05  # of the autoencoder's latents, which will be rounded to codes
CODEBOOK_DECAY = 0.98
UNUSED_STEPS = 400  # after which a code starts anew, as the latent of a cell
SEED_BATCHES, SEED_ITERATIONS = 60, 12  # of k-means
_SEED_STEP = 1 << 30  # k-means takes its images from here on

Images = Callable[[int, int], Tensor]  # a step's images: number of the step, how many


class TokenizerTrainee(nn.Module):
    """A VQ tokenizer in training.

    Attributes:
        model: The tokenizer.
        last_used_S: The last step at which a cell took each code.
    """

    last_used_S: Tensor

    def __init__(self, model: VQTokenizer) -> None:
        """Keep the tokenizer, whose config names the colours of plain backgrounds."""
        super().__init__()
        self.model = model
        self.register_buffer(
            "last_used_S", torch.zeros(len(model.quantize.embedding.weight), dtype=torch.int64)
        )

    def view(self, pixels_BCHW: Tensor) -> View:
        """Return a batch of images, encoded."""
        table = self.model.quantize.table()
        pixels_BCHW = pixels_BCHW.to(table.device).contiguous(memory_format=torch.channels_last)
        drawing = on_plain(pixels_BCHW, self.model.plain, self.model.recoloured)
        with autocast(table.device):
            latent = self.model.latent(drawing.pixels)
        return View(
            pixels=pixels_BCHW,
            shown=drawing.shown,
            latent=F.normalize(latent.float(), dim=1),  # as the codebook is
            background_B=drawing.background_B,
            plain=table[drawing.background_B, :, None, None].detach(),
            is_plain=drawing.plain_cells(latent.shape[-1]),
        )


@dataclass(frozen=True, kw_only=True)
class View:
    """A batch as the tokenizer's training sees it.

    Attributes:
        pixels: Images (B, 3, H, W).
        shown: Where a pixel is not plain background, (B, 1, H, W) bool.
        latent: Latents (B, E, h, w), unit vectors.
        background_B: Reserved code of each image's background.
        plain: Vector of that code, (B, E, 1, 1).
        is_plain: Cells that show plain background alone, (B, 1, h, w) bool.
    """

    pixels: Tensor
    shown: Tensor
    latent: Tensor
    background_B: Tensor
    plain: Tensor
    is_plain: Tensor


def autoencoder_loss(trainee: TokenizerTrainee, images: Images, batch_size: int) -> LossAt:
    """Return the loss of reconstruction without quantization, on the unit sphere.

    Args:
        trainee: The tokenizer in training.
        images: A step's images.
        batch_size: Images per step.
    """

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        view = trainee.view(images(step, batch_size))
        noise = torch.randn(view.latent.shape, generator=torch.Generator().manual_seed(step))
        shaken = F.normalize(view.latent + LATENT_NOISE * noise.to(view.latent.device), dim=1)
        latent = torch.where(view.is_plain, view.plain, shaken)
        target = torch.where(view.is_plain, view.plain, view.latent.detach())
        loss, psnr = reconstruction(trainee.model, latent, view)
        return loss + F.mse_loss(view.latent, target), {"psnr": psnr}

    return loss_at


def codebook_loss(
    trainee: TokenizerTrainee, images: Images, batch_size: int, before: int
) -> LossAt:
    """Return the loss of reconstruction through the codebook.

    The codebook follows the latents by moving averages.

    Args:
        trainee: The tokenizer in training; its first step sets the codebook.
        images: A step's images.
        batch_size: Images per step.
        before: Steps of the autoencoder, whose images are not taken again.
    """
    model = trainee.model

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        if step == 0:
            seed_codebook(trainee, images, batch_size)
        view = trainee.view(images(before + step, batch_size))
        with torch.no_grad():
            codes = model.quantize.nearest(view.latent)
            quantized = model.quantize.lookup(codes, *view.latent.shape[2:]).clone()
        shown_BN = ~view.is_plain.flatten(1)
        plain = view.plain.clone()  # the table moves below
        _follow(trainee, view.latent.detach(), codes, shown_BN, step)
        target = torch.where(view.is_plain, plain, quantized)
        commitment = F.mse_loss(view.latent, target)
        # The identity's gradient goes through the codes.
        straight = view.latent + (quantized - view.latent).detach()
        passed = torch.where(view.is_plain, plain, straight)
        loss, psnr = reconstruction(model, passed, view)
        plain_right = (codes == view.background_B[:, None])[~shown_BN].float().mean().item()
        in_use = int((trainee.last_used_S > step - UNUSED_STEPS).sum())
        metrics = {"psnr": psnr, "commitment": commitment.item(), "codes_in_use": in_use}
        return loss + COMMITMENT_WEIGHT * commitment, metrics | {"plain_right": plain_right}

    return loss_at


@torch.no_grad()
def seed_codebook(trainee: TokenizerTrainee, images: Images, batch_size: int) -> None:
    """Set the codebook by k-means of the cells that show something.

    The first codes stay reserved for plain backgrounds.

    Args:
        trainee: Trained autoencoder, whose codebook is changed in place.
        images: A step's images.
        batch_size: Images per batch.

    Raises:
        OptionError: All images are plain.
    """
    views = (trainee.view(images(_SEED_STEP + i, batch_size)) for i in range(SEED_BATCHES))
    cells = torch.cat(
        [view.latent.flatten(2).transpose(1, 2)[~view.is_plain.flatten(1)] for view in views]
    )
    table, first = trainee.model.quantize.embedding.weight, len(trainee.model.plain)
    free = len(table) - first
    if not len(cells):
        raise OptionError(
            f"{SEED_BATCHES * batch_size} images show nothing but a plain background; give images "
            "of things"
        )
    order = torch.randperm(len(cells), generator=torch.Generator().manual_seed(0))
    centres = cells[order.to(cells.device).repeat(1 + free // len(cells))[:free]]
    for _ in range(SEED_ITERATIONS):
        nearest = torch.cat([(part @ centres.T).argmax(1) for part in torch.split(cells, 8192)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, cells)
        empty = torch.bincount(nearest, minlength=free) == 0
        sums[empty] = cells[_spread(int(empty.sum()), len(cells))]
        centres = F.normalize(sums, dim=1)
    table[first:] = centres
    table.copy_(F.normalize(table, dim=1))


@torch.no_grad()
def _follow(
    trainee: TokenizerTrainee, latent_BEhw: Tensor, codes_BN: Tensor, shown_BN: Tensor, step: int
) -> None:
    """Move each code that a cell took towards the mean of its latents; renew unused codes."""
    table, first = trainee.model.quantize.embedding.weight, len(trainee.model.plain)
    cells, codes = latent_BEhw.flatten(2).transpose(1, 2)[shown_BN], codes_BN[shown_BN]
    sums = torch.zeros_like(table).index_add_(0, codes, cells)
    used = torch.bincount(codes, minlength=len(table)) > 0
    trainee.last_used_S[used] = step
    used[:first] = False
    moved = table[used] + (1 - CODEBOOK_DECAY) * (F.normalize(sums[used], dim=1) - table[used])
    table[used] = F.normalize(moved, dim=1)
    unused = trainee.last_used_S < step - UNUSED_STEPS
    unused[:first] = False
    if step % 100 == 99 and len(cells) and unused.any():
        table[unused] = cells[_spread(int(unused.sum()), len(cells))]
        trainee.last_used_S[unused] = step


def reconstruction(model: VQTokenizer, latent: Tensor, view: View) -> tuple[Tensor, float]:
    """Return the loss of the decoded latent, and its mean PSNR in dB.

    Args:
        model: The tokenizer.
        latent: What is decoded, (B, E, h, w).
        view: The batch.
    """
    with autocast(latent.device):
        out = model.decode_latent(latent)
    out = out.float()
    loss = weighted_error(out, view.pixels, view.shown)
    edges = sum((a - b).abs().mean() for a, b in zip(_edges(out), _edges(view.pixels), strict=True))
    mse_B = (out.detach().clamp(-1, 1) - view.pixels).square().mean((1, 2, 3)) / 4
    return loss + EDGE_WEIGHT * edges, -10 * mse_B.clamp(min=1e-10).log10().mean().item()


def weighted_error(out: Tensor, pixels: Tensor, shown_B1HW: Tensor) -> Tensor:
    """Return the squared and absolute error of images, with more weight outside the background.

    Args:
        out: Reconstructed pixels (B, 3, H, W).
        pixels: True pixels (B, 3, H, W).
        shown_B1HW: Where a pixel is not background (bool).
    """
    weight = 1 + (FOREGROUND_WEIGHT - 1) * shown_B1HW
    error = out - pixels
    return ((error.square() + L1_WEIGHT * error.abs()) * weight).sum() / (3 * weight.sum())


def _edges(pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the differences between neighbours along each axis."""
    return pixels_BCHW.diff(dim=-1), pixels_BCHW.diff(dim=-2)


def _spread(count: int, total: int) -> Tensor:
    """Return ``count`` indices spread evenly over ``total``."""
    return torch.arange(count) * max(1, total // max(1, count)) % total
