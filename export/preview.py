"""The linear preview map: code vectors to the mean colour of the cell they draw."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from janus_edge.model.codebook import VQTokenizer


def fit_preview(tokenizer: VQTokenizer, codes_PN: Tensor) -> np.ndarray:
    """RGB of every code, (K, 3) float32 in 0..255, by least squares on the pictures of some codes.

    The map is linear in the code's vector; stored as the table it gives, since the codes are known.
    """
    table_KE = tokenizer.quantize.table().detach()
    with torch.no_grad():
        parts = [tokenizer.decode(part).clamp(-1, 1) for part in torch.split(codes_PN, 1)]
    pixels = torch.cat(parts)
    stride = pixels.shape[-1] // int(codes_PN.shape[1] ** 0.5)
    colours = F.avg_pool2d(pixels, stride).flatten(2).transpose(1, 2).reshape(-1, 3)
    vectors = F.pad(table_KE[codes_PN.flatten()], (0, 1), value=1.0)
    weights = torch.linalg.lstsq(vectors, colours).solution
    fitted = F.pad(table_KE, (0, 1), value=1.0) @ weights
    return ((fitted.clamp(-1, 1) + 1) * 127.5).numpy().astype(np.float32)


def random_codes(size: int, num_codes: int) -> Tensor:
    """Codes (P, N) where a checkpoint brings no samples.

    Each picture is one code all over with others in half of its cells, so that every code is seen
    both filling a picture and among strangers.
    """
    num_pictures = min(64, max(8, 4096 // num_codes))
    generator = torch.Generator().manual_seed(0)
    plain = torch.randint(size, (num_pictures, 1), generator=generator)
    others = torch.randint(size, (num_pictures, num_codes), generator=generator)
    mixed = torch.rand(num_pictures, num_codes, generator=generator) < 0.5
    return torch.where(mixed, others, plain)
