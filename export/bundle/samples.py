"""What a model draws, to fit or calibrate with at export: the checkpoint's own samples, or random.

Shapes: P images, N codes, Z latent channels, H, W latent cells.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from janus_edge.model.janus import Janus
from janus_edge.model.weights import Checkpoint

NUM_LATENTS = 8  # random ones, if a checkpoint has no samples


def samples(checkpoint: Checkpoint) -> Tensor:
    """Return a checkpoint's samples, or random ones if it has none.

    Returns:
        Codes (P, N) int64 of a Janus, latents (P, Z, H, W) float32 of a JanusFlow.
    """
    if checkpoint.samples is None:
        return random_samples(checkpoint)
    is_codes = isinstance(checkpoint.model, Janus)
    return torch.from_numpy(checkpoint.samples.astype(np.int64 if is_codes else np.float32))


def random_samples(checkpoint: Checkpoint) -> Tensor:
    """Return random codes (P, N) of a Janus, random latents (P, Z, H, W) of a JanusFlow."""
    model = checkpoint.model
    if isinstance(model, Janus):
        return random_codes(model.config.codebook.size, model.config.num_codes)
    return random_latents(model.config.flow.latent_channels, model.latent_size)


def random_codes(size: int, num_codes: int) -> Tensor:
    """Return random codes (P, N).

    Each image repeats one code and has others in half of its cells. So every code is seen both
    filling an image and among other codes.

    Args:
        size: How many codes there are.
        num_codes: N, of one image.
    """
    num_images = min(64, max(8, 4096 // num_codes))
    generator = torch.Generator().manual_seed(0)
    plain = torch.randint(size, (num_images, 1), generator=generator)
    others = torch.randint(size, (num_images, num_codes), generator=generator)
    mixed = torch.rand(num_images, num_codes, generator=generator) < 0.5
    return torch.where(mixed, others, plain)


def random_latents(channels: int, size: int) -> Tensor:
    """Return random latents (P, Z, H, W) of unit variance.

    They are coarse noise, as images have areas, and a little fine noise.

    Args:
        channels: Z.
        size: H and W.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(
        NUM_LATENTS, channels, max(1, size // 4), max(1, size // 4), generator=generator
    )
    fine = torch.randn(NUM_LATENTS, channels, size, size, generator=generator)
    return F.interpolate(coarse, size, mode="bilinear") * 0.95 + fine * 0.3
