"""The linear preview maps: of what a model draws, cell by cell, to the cell's mean colour."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from janus_edge.export.bundle.samples import samples
from janus_edge.model.codebook import VQTokenizer
from janus_edge.model.janus import Janus
from janus_edge.model.vae import VAE
from janus_edge.model.weights import Checkpoint, loaded

PIXELS_AT_ONCE = 2**19  # of a batch that is decoded: more would need more memory than the export
REPORT_S = 10  # seconds of decoding between two lines
Report = Callable[[str], None]


def preview(checkpoint: Checkpoint, report: Report) -> Iterator[tuple[str, np.ndarray]]:
    """The table ``preview``: of a Janus the colour of each code, of a JanusFlow the map itself.

    report: called with a line as decoding begins, and every REPORT_S seconds.
    """
    model = checkpoint.model
    if isinstance(model, Janus):
        with loaded(checkpoint, "gen_vision_model."):
            yield "preview", fit_codes(model.gen_vision_model, samples(checkpoint), report)
        return
    with loaded(checkpoint, "vae.decoder.", "vae.post_quant_conv."):
        yield "preview", fit_latents(model.vae, samples(checkpoint), report)


def fit_codes(tokenizer: VQTokenizer, codes_PN: Tensor, report: Report) -> np.ndarray:
    """RGB of every code, (K, 3) float32 in 0..255, by least squares on the images of some codes.

    The map is linear in the code's vector; stored as the table it gives, since the codes are known.
    """
    table_KE = tokenizer.quantize.table().detach()
    side = int(codes_PN.shape[1] ** 0.5)
    colours = _colours(tokenizer.decode, codes_PN, side, report)
    weights = _least_squares(table_KE[codes_PN.flatten()], colours)
    fitted = F.pad(table_KE, (0, 1), value=1.0) @ weights
    return ((fitted.clamp(-1, 1) + 1) * 127.5).numpy().astype(np.float32)


def fit_latents(vae: VAE, latents_PZHW: Tensor, report: Report) -> np.ndarray:
    """Channels of a scaled latent's cell and a constant to RGB in 0..255, (Z + 1, 3) float32."""
    colours = _colours(vae.to_pixels, latents_PZHW, latents_PZHW.shape[-1], report)
    vectors = latents_PZHW.movedim(1, -1).flatten(0, 2)
    weights = _least_squares(vectors, colours) * 127.5
    weights[-1] += 127.5
    return weights.numpy().astype(np.float32)


def _colours(
    decode: Callable[[Tensor], Tensor], samples_P: Tensor, side: int, report: Report
) -> Tensor:
    """Mean colours (P * side * side, 3) of the cells of what samples decode to, ``side`` cells a
    side, each image's in a row; decoded in batches."""
    found: list[Tensor] = []
    done, width, told = 0, 1, time.monotonic()
    report(f"preview: decodes {len(samples_P)} images to be fitted to")
    while done < len(samples_P):
        with torch.no_grad():
            pixels_B3HW = decode(samples_P[done : done + width]).clamp(-1, 1)
        width = max(1, PIXELS_AT_ONCE // pixels_B3HW[0, 0].numel())  # the first shows the size
        cells = F.avg_pool2d(pixels_B3HW, pixels_B3HW.shape[-1] // side)
        found.append(cells.flatten(2).transpose(1, 2).reshape(-1, 3))
        done += len(pixels_B3HW)
        if time.monotonic() - told > REPORT_S and done < len(samples_P):
            told = time.monotonic()
            report(f"preview: {done} of {len(samples_P)} images")
    return torch.cat(found)


def _least_squares(vectors: Tensor, colours: Tensor) -> Tensor:
    """Weights, the constant's last, from cells' vectors to their mean colours."""
    return torch.linalg.lstsq(F.pad(vectors, (0, 1), value=1.0), colours).solution
