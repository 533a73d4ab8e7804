"""Training of an autoencoder whose latents a small JanusFlow draws, instead of SDXL's.

- A flow draws latents with small errors. The decoder is therefore trained on latents with noise of
  a tenth of their standard deviation, besides the posterior's own.
- A flow starts from noise of unit variance. Latents are therefore kept within a few standard
  deviations: normalization over an image that is mostly plain would make a small thing twenty times
  as large as the rest.
- A flow draws best what is the same everywhere. Cells that show plain background alone are
  therefore pulled to one latent per colour; otherwise they would carry what belongs to things
  elsewhere, as they do in the codebook (``train/vq.py``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from janus_edge.model.plain import foreground
from janus_edge.model.vae import VAE
from janus_edge.train.loop import LossAt
from janus_edge.train.vq import Images, weighted_error

KL_WEIGHT = 5e-4  # of the mean over the latent's numbers
NOISE = 0.1  # of the latents' standard deviation
REACH, REACH_WEIGHT = 3.0, 0.05  # standard deviations from zero that cost nothing
PLAIN_WEIGHT = 0.02
SCALE_BATCHES = 16


def vae_loss(model: VAE, images: Images, plain_K3: Tensor, batch_size: int) -> LossAt:
    """Return the loss: reconstruction from a noisy latent, a little KL, plain cells alike.

    Args:
        model: The autoencoder in training.
        images: A step's images.
        plain_K3: Colours of plain backgrounds, in [-1, 1]; none for photographs.
        batch_size: Images per step.
    """

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        pixels = images(step, batch_size).to(model.quant_conv.weight.device)
        shown, background_B = foreground(pixels, plain_K3.to(pixels.device))
        mean, logvar = model.encode(pixels)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(step))
        spread = mean.detach().std()
        scale = (logvar.exp() + (NOISE * spread).square()).sqrt()
        out = model.decode(mean + scale * noise.to(mean.device))
        reconstruction = weighted_error(out, pixels, shown)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        plain = plain_variance(mean, background_B, shown) / spread.square()
        beyond = F.relu(mean.abs() / spread - REACH).square().mean()
        loss = reconstruction + KL_WEIGHT * kl + PLAIN_WEIGHT * plain + REACH_WEIGHT * beyond
        metrics = {"reconstruction": reconstruction, "kl": kl, "plain": plain, "beyond": beyond}
        metrics |= {"std": spread, "largest": mean.detach().abs().max()}
        return loss, {name: value.item() for name, value in metrics.items()}

    return loss_at


def plain_variance(mean_BZhw: Tensor, background_B: Tensor, shown_B1HW: Tensor) -> Tensor:
    """Return the mean squared distance of plain cells to the mean of their background.

    Plain cells show background alone; the mean is over all such cells of the batch with the same
    background. Without plain cells it is 0.

    Args:
        mean_BZhw: Latents' means.
        background_B: Number of each image's background.
        shown_B1HW: Where a pixel is not background (bool).
    """
    stride = shown_B1HW.shape[-1] // mean_BZhw.shape[-1]
    plain_Bhw = F.max_pool2d(shown_B1HW.float(), stride)[:, 0] == 0
    if not plain_Bhw.any():
        return mean_BZhw.new_zeros(())
    of_cell = background_B[:, None, None].expand_as(plain_Bhw)[plain_Bhw]
    cells = mean_BZhw.permute(0, 2, 3, 1)[plain_Bhw]
    count = int(background_B.max()) + 1
    sums = cells.new_zeros(count, cells.shape[1]).index_add(0, of_cell, cells)
    counts = torch.bincount(of_cell, minlength=count).clamp(min=1)
    return (cells - (sums / counts[:, None])[of_cell]).square().mean()


@torch.no_grad()
def latent_scale(model: VAE, images: Images, batch_size: int = 32) -> float:
    """Return the scaling factor: one over the standard deviation of raw latents.

    Args:
        model: Trained autoencoder.
        images: A step's images.
        batch_size: Images per batch.
    """
    device = model.quant_conv.weight.device
    batches = (images(i, batch_size).to(device) for i in range(SCALE_BATCHES))
    return round(1 / torch.cat([model.encode(batch)[0] for batch in batches]).std().item(), 5)
