"""The linear preview map: code vectors to the mean colour of the cell they draw."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from janus_edge.model.codebook import VQTokenizer


def fit_preview(tokenizer: VQTokenizer, grid: int, num_pictures: int = 64) -> np.ndarray:
    """RGB of every code, (K, 3) float32 in 0..255, by least squares on random pictures.

    Each picture is one code all over with others in half of its cells, so that every code is seen
    both filling a picture and among strangers. The map is linear in the code's vector; stored as
    the table it gives, since the codes are known.
    """
    generator = torch.Generator().manual_seed(0)
    table_KE = tokenizer.quantize.table().detach()
    size = len(table_KE)
    plain = torch.randint(size, (num_pictures, 1), generator=generator)
    others = torch.randint(size, (num_pictures, grid * grid), generator=generator)
    mixed = torch.rand(num_pictures, grid * grid, generator=generator) < 0.5
    codes_BN = torch.where(mixed, others, plain)
    with torch.no_grad():
        pixels = torch.cat(
            [tokenizer.decode(part).clamp(-1, 1) for part in torch.split(codes_BN, 8)]
        )
    stride = pixels.shape[-1] // grid
    colours = F.avg_pool2d(pixels, stride).flatten(2).transpose(1, 2).reshape(-1, 3)
    vectors = F.pad(table_KE[codes_BN.flatten()], (0, 1), value=1.0)
    weights = torch.linalg.lstsq(vectors, colours).solution
    fitted = F.pad(table_KE, (0, 1), value=1.0) @ weights
    return ((fitted.clamp(-1, 1) + 1) * 127.5).numpy().astype(np.float32)
