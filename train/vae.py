"""Training of the small autoencoder whose latents JanusFlow draws, instead of SDXL's.

- A flow draws latents with small errors. The decoder is therefore trained on latents with noise of
  a tenth of their standard deviation, besides the posterior's own.
- A flow starts from noise of unit variance. Latents are therefore kept within a few standard
  deviations: normalization over an image that is mostly plain would make a small thing twenty times
  as large as the rest.
- A flow draws best what is the same everywhere. Cells that show background alone are therefore
  pulled to one latent per background; otherwise they would carry what belongs to objects elsewhere,
  as they do in the codebook (``train/vq.py``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_edge.model.vae import VAE, VAEConfig
from janus_edge.shapes.scenes import BACKGROUNDS, Scene
from janus_edge.train.loop import LossAt, Stage
from janus_edge.train.vq import (
    FOREGROUND_WEIGHT,
    L1_WEIGHT,
    foreground,
    scene_batch,
    scene_images,
)

KL_WEIGHT = 5e-4  # of the mean over the latent's numbers
NOISE = 0.1  # of the latents' standard deviation
REACH, REACH_WEIGHT = 3.0, 0.05  # standard deviations from zero that cost nothing
PLAIN_WEIGHT = 0.02

TINY_VAE = VAEConfig(
    latent_channels=4,
    block_out_channels=(24, 48, 64),
    layers_per_block=1,
    norm_num_groups=8,
    scaling_factor=1.0,  # until it is trained: then latent_scale
)
VAE_STAGE = Stage(
    name="vae",
    num_steps=1200,
    batch_size=16,
    learning_rate=2e-3,
    warmup_steps=30,
    decay_from=0.4,
    trainable=("",),
)


def vae_loss(model: VAE, batch_size: int) -> LossAt:
    """Return the loss: reconstruction from a noisy latent, a little KL, plain cells alike.

    Args:
        model: The autoencoder in training.
        batch_size: Images per step.
    """

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = scene_batch(step, batch_size)
        pixels = scene_images(batch)
        shown = foreground(batch, pixels)
        mean, logvar = model.encode(pixels.to(model.quant_conv.weight.device))
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(step))
        spread = mean.detach().std()
        scale = (logvar.exp() + (NOISE * spread).square()).sqrt()
        out = model.decode(mean + scale * noise.to(mean.device))
        reconstruction = weighted_error(out, pixels.to(out.device), shown.to(out.device))
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        plain = plain_variance(mean, batch, shown.to(mean.device)) / spread.square()
        beyond = F.relu(mean.abs() / spread - REACH).square().mean()
        loss = reconstruction + KL_WEIGHT * kl + PLAIN_WEIGHT * plain + REACH_WEIGHT * beyond
        metrics = {"reconstruction": reconstruction, "kl": kl, "plain": plain, "beyond": beyond}
        metrics |= {"std": spread, "largest": mean.detach().abs().max()}
        return loss, {name: value.item() for name, value in metrics.items()}

    return loss_at


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


def plain_variance(mean_BZhw: Tensor, batch: list[Scene], shown_B1HW: Tensor) -> Tensor:
    """Return the mean squared distance of plain cells to the mean of their background.

    Plain cells show background alone; the mean is over all such cells of the batch with the same
    background.

    Args:
        mean_BZhw: Latents' means.
        batch: Scenes of the images.
        shown_B1HW: Where a pixel is not background (bool).
    """
    stride = shown_B1HW.shape[-1] // mean_BZhw.shape[-1]
    plain_Bhw = F.max_pool2d(shown_B1HW.float(), stride)[:, 0] == 0
    names = list(BACKGROUNDS)
    background = torch.tensor([names.index(scene.background) for scene in batch])
    of_cell = background.to(mean_BZhw.device)[:, None, None].expand_as(plain_Bhw)[plain_Bhw]
    cells = mean_BZhw.permute(0, 2, 3, 1)[plain_Bhw]
    sums = cells.new_zeros(len(names), cells.shape[1]).index_add(0, of_cell, cells)
    counts = torch.bincount(of_cell, minlength=len(names)).clamp(min=1)
    return (cells - (sums / counts[:, None])[of_cell]).square().mean()


@torch.no_grad()
def latent_scale(model: VAE, num_batches: int = 16) -> float:
    """Return the scaling factor: one over the standard deviation of raw latents.

    Args:
        model: Trained autoencoder.
        num_batches: Batches of 32 training images.
    """
    device = model.quant_conv.weight.device
    means = [
        model.encode(scene_images(scene_batch(i, 32)).to(device))[0] for i in range(num_batches)
    ]
    return round(1 / torch.cat(means).std().item(), 5)
