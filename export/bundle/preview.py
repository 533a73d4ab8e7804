"""Decode samples, each once, for all that the export learns from images of the model's kind.

The preview is a linear map from a cell of what a model draws to the cell's mean colour.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from janus_edge.export.bundle.samples import random_samples, samples
from janus_edge.export.quantization.convolutions import ObservedRanges, observed
from janus_edge.model.codebook import VQTokenizer
from janus_edge.model.janus import Janus
from janus_edge.model.vae import VAE
from janus_edge.model.weights import Checkpoint, loaded

PIXELS_AT_ONCE = 2**19  # in a decoded batch; more would need more memory than the export
NUM_OBSERVED = 4  # of a checkpoint's samples, and of random ones: images that ranges are taken of
REPORT_S = 10  # seconds of decoding between two reports
Report = Callable[[str], None]


class Fitted(NamedTuple):
    """A preview and one of the images that it is fitted to.

    Attributes:
        table: The preview, see ``fit_codes`` and ``fit_latents``.
        first_B3HW: Pixels of the first sample, B = 1, about [-1, 1].
    """

    table: np.ndarray
    first_B3HW: Tensor


class DecodedSamples:
    """A checkpoint's samples as images, and what is learned from them."""

    def __init__(self, checkpoint: Checkpoint, report: Report = lambda line: None) -> None:
        """Decode nothing yet.

        Args:
            checkpoint: The checkpoint, whose decoder is loaded when it is needed.
            report: Called with a line as decoding begins, and every REPORT_S seconds.
        """
        self._checkpoint, self._report = checkpoint, report

    @property
    def preview(self) -> np.ndarray:
        """The colour of each code for a Janus, the map itself for a JanusFlow."""
        return self._found[0].table

    @property
    def first_B3HW(self) -> Tensor:
        """The first sample's pixels, B = 1."""
        return self._found[0].first_B3HW

    @property
    def ranges(self) -> ObservedRanges:
        """The ranges of a Janus' convolutions, see ``observed``; none for a JanusFlow."""
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[Fitted, ObservedRanges]:
        checkpoint, model = self._checkpoint, self._checkpoint.model
        if not isinstance(model, Janus):
            with loaded(checkpoint, "vae.decoder.", "vae.post_quant_conv."):
                return fit_latents(model.vae, samples(checkpoint), self._report), {}
        vq = model.gen_vision_model
        with loaded(checkpoint, "gen_vision_model."), torch.no_grad():
            with observed(vq) as ranges:
                fitted = fit_codes(vq, samples(checkpoint), self._report)
            if checkpoint.samples is not None:  # many: the ranges of all would be too coarse
                with observed(vq) as ranges:
                    for codes_PN in (samples(checkpoint), random_samples(checkpoint)):
                        vq.decode(codes_PN[:NUM_OBSERVED])
        return fitted, ranges


def fit_codes(tokenizer: VQTokenizer, codes_PN: Tensor, report: Report) -> Fitted:
    """Return the colour of every code, RGB (K, 3) float32 in 0..255, by least squares.

    The map is linear in the code's vector. As the codes are known, the table of its results is
    stored.

    Args:
        tokenizer: The codebook with its decoder.
        codes_PN: Codes of images to fit to.
        report: Called with lines on the progress.
    """
    table_KE = tokenizer.quantize.table().detach()
    side = int(codes_PN.shape[1] ** 0.5)
    colours, first_B3HW = _colours(tokenizer.decode, codes_PN, side, report)
    weights = _least_squares(table_KE[codes_PN.flatten()], colours)
    fitted = F.pad(table_KE, (0, 1), value=1.0) @ weights
    table = ((fitted.clamp(-1, 1) + 1) * 127.5).numpy().astype(np.float32)
    return Fitted(table, first_B3HW)


def fit_latents(vae: VAE, latents_PZHW: Tensor, report: Report) -> Fitted:
    """Return the map from a latent's cell to RGB in 0..255, (Z + 1, 3) float32.

    Its rows are the channels of the scaled latent and, last, the constant.

    Args:
        vae: The autoencoder.
        latents_PZHW: Scaled latents of images to fit to.
        report: Called with lines on the progress.
    """
    colours, first_B3HW = _colours(vae.to_pixels, latents_PZHW, latents_PZHW.shape[-1], report)
    vectors = latents_PZHW.movedim(1, -1).flatten(0, 2)
    weights = _least_squares(vectors, colours) * 127.5
    weights[-1] += 127.5
    return Fitted(weights.numpy().astype(np.float32), first_B3HW)


def _colours(
    decode: Callable[[Tensor], Tensor], samples_P: Tensor, side: int, report: Report
) -> tuple[Tensor, Tensor]:
    """Return the cells' mean colours and the first image's pixels.

    Colours are (P * side * side, 3), image by image, in raster order.

    Args:
        decode: From samples to pixels (B, 3, H, W) in [-1, 1]; called with batches.
        samples_P: Codes or latents.
        side: Cells per side of an image.
        report: Called with lines on the progress.
    """
    found: list[Tensor] = []
    done, width, told = 0, 1, time.monotonic()
    report(f"preview: decodes {len(samples_P)} images to be fitted to")
    while done < len(samples_P):
        with torch.no_grad():
            pixels_B3HW = decode(samples_P[done : done + width])
        if not found:
            first_B3HW = pixels_B3HW
        width = max(1, PIXELS_AT_ONCE // pixels_B3HW[0, 0].numel())  # known after the first image
        cells = F.avg_pool2d(pixels_B3HW.clamp(-1, 1), pixels_B3HW.shape[-1] // side)
        found.append(cells.flatten(2).transpose(1, 2).reshape(-1, 3))
        done += len(pixels_B3HW)
        if time.monotonic() - told > REPORT_S and done < len(samples_P):
            told = time.monotonic()
            report(f"preview: {done} of {len(samples_P)} images")
    return torch.cat(found), first_B3HW


def _least_squares(vectors: Tensor, colours: Tensor) -> Tensor:
    """Return weights, the constant's last, from cells' vectors to their mean colours."""
    return torch.linalg.lstsq(F.pad(vectors, (0, 1), value=1.0), colours).solution
