"""Previews of unfinished images (docs/draw.md, "Previews"); native/core/previews.cpp is the same.

Shapes: N codes, K codebook size, Z latent channels, H, W latent cells, S pixels per side.
"""

from __future__ import annotations

import numpy as np

from janus_edge.runtime import image as images
from janus_edge.runtime.engines import Engines
from janus_edge.runtime.manifest import PREVIEW_DECODER
from janus_edge.runtime.sizes import CodeSizes


def preview_names(engines: Engines, wanted: bool) -> tuple[str, ...]:
    """Return the components that previews need: the preview decoder, if the bundle has one.

    Args:
        engines: The bundle's engines.
        wanted: False if no previews are made.
    """
    is_there = PREVIEW_DECODER in engines.bundle.manifest.components
    return (PREVIEW_DECODER,) if wanted and is_there else ()


def preview_of_codes(engines: Engines, codes_N: np.ndarray) -> np.ndarray:
    """Return what the first codes of an image show, (S, S, 3) uint8.

    By the linear map, which a bundle without a preview decoder has, the other cells are grey.

    Args:
        engines: The bundle's engines.
        codes_N: The codes drawn so far.

    Raises:
        BundleError: The preview decoder's pixels are not finite.
    """
    sizes = engines.bundle.manifest.sizes
    assert isinstance(sizes, CodeSizes)
    grid, drawn = sizes.code_grid, len(codes_N)
    if preview_names(engines, wanted=True):
        all_N = np.full(sizes.num_codes, sizes.codebook_size, np.int64)  # K: not drawn yet
        all_N[:drawn] = codes_N
        return _sharp(engines, {"codes": all_N[None]})
    cells = np.full((grid * grid, 3), images.PADDING, np.uint8)
    cells[:drawn] = engines.table("preview")[codes_N].round().clip(0, 255)
    return images.enlarge(cells.reshape(grid, grid, 3), sizes.image_size // grid)


def preview_of_latent(engines: Engines, latent_ZHW: np.ndarray) -> np.ndarray:
    """Return what an unfinished latent shows, (S, S, 3) uint8.

    Args:
        engines: The bundle's engines.
        latent_ZHW: The latent as it would end if the newest velocity held.

    Raises:
        BundleError: The preview decoder's pixels are not finite.
    """
    if preview_names(engines, wanted=True):
        return _sharp(engines, {"latent": latent_ZHW[None]})
    weights_ZC = engines.table("preview")  # its last row is the constant
    cells = np.broadcast_to(weights_ZC[-1], (*latent_ZHW.shape[1:], 3))
    for channel_HW, weights_C in zip(latent_ZHW, weights_ZC[:-1], strict=True):
        cells = cells + channel_HW[..., None] * weights_C
    pixels = cells.clip(0, 255).round().astype(np.uint8)
    return images.enlarge(pixels, engines.bundle.manifest.sizes.image_size // pixels.shape[0])


def _sharp(engines: Engines, given: dict[str, np.ndarray]) -> np.ndarray:
    """Run the preview decoder on codes (1, N) or a latent (1, Z, H, W)."""
    (image,) = engines[PREVIEW_DECODER].run(given)[0]
    return images.to_pixels(image)
