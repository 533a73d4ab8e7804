"""The linear preview maps: of what a model draws, cell by cell, to the cell's mean colour."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from janus_edge.export.samples import samples
from janus_edge.model.codebook import VQTokenizer
from janus_edge.model.janus import Janus
from janus_edge.model.vae import VAE
from janus_edge.model.weights import Checkpoint, loaded


def preview(checkpoint: Checkpoint) -> Iterator[tuple[str, np.ndarray]]:
    """The table ``preview``: of a Janus the colour of each code, of a JanusFlow the map itself."""
    model = checkpoint.model
    if isinstance(model, Janus):
        with loaded(checkpoint, "gen_vision_model."):
            yield "preview", fit_codes(model.gen_vision_model, samples(checkpoint))
        return
    with loaded(checkpoint, "vae.decoder.", "vae.post_quant_conv."):
        yield "preview", fit_latents(model.vae, samples(checkpoint))


def fit_codes(tokenizer: VQTokenizer, codes_PN: Tensor) -> np.ndarray:
    """RGB of every code, (K, 3) float32 in 0..255, by least squares on the pictures of some codes.

    The map is linear in the code's vector; stored as the table it gives, since the codes are known.
    """
    table_KE = tokenizer.quantize.table().detach()
    with torch.no_grad():
        parts = [tokenizer.decode(part).clamp(-1, 1) for part in torch.split(codes_PN, 1)]
    side = int(codes_PN.shape[1] ** 0.5)
    weights = _least_squares(table_KE[codes_PN.flatten()], torch.cat(parts), side)
    fitted = F.pad(table_KE, (0, 1), value=1.0) @ weights
    return ((fitted.clamp(-1, 1) + 1) * 127.5).numpy().astype(np.float32)


def fit_latents(vae: VAE, latents_PZHW: Tensor) -> np.ndarray:
    """Channels of a scaled latent's cell and a constant to RGB in 0..255, (Z + 1, 3) float32."""
    with torch.no_grad():
        parts = [vae.to_pixels(part).clamp(-1, 1) for part in torch.split(latents_PZHW, 1)]
    vectors = latents_PZHW.movedim(1, -1).flatten(0, 2)
    weights = _least_squares(vectors, torch.cat(parts), latents_PZHW.shape[-1]) * 127.5
    weights[-1] += 127.5
    return weights.numpy().astype(np.float32)


def _least_squares(vectors: Tensor, pixels_P3HW: Tensor, side: int) -> Tensor:
    """Weights, the constant's last, from cells' vectors to the mean colours of ``side`` squared
    cells a picture."""
    colours = F.avg_pool2d(pixels_P3HW, pixels_P3HW.shape[-1] // side)
    targets = colours.flatten(2).transpose(1, 2).reshape(-1, 3)
    return torch.linalg.lstsq(F.pad(vectors, (0, 1), value=1.0), targets).solution
