"""Plain backgrounds of drawings, which a VQ tokenizer has codes of their own for.

A tokenizer's config may name colours of plain backgrounds. The first codes are theirs, one each:
a cell that shows such a background alone has its colour's code and no other.

A tokenizer that is ``recoloured`` encodes an image as if its background had the first colour. So
what stands on a background has nearly the same codes on all of them, and the decoder takes the
background's colour from the plain cells. For a model that draws, that is one drawing of a thing to
learn instead of one per colour (docs/log.md, 2026-11-30). Parts that have the first colour
themselves are plain cells on it, and codes of their own on others.

Shapes: B batch, K colours, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 0.02  # of [-1, 1]; a pixel that near to a plain colour is plain


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Images, parted into what they show and their plain background.

    Attributes:
        pixels: The images as they are encoded (B, 3, H, W), in [-1, 1].
        shown: Where a pixel is not plain background, (B, 1, H, W) bool.
        background_B: Number of each background's colour, which is its code.
    """

    pixels: Tensor
    shown: Tensor
    background_B: Tensor

    def plain_cells(self, cells: int) -> Tensor:
        """Return the cells (B, 1, cells, cells) that show plain background alone."""
        return F.max_pool2d(self.shown.float(), self.shown.shape[-1] // cells) == 0


def on_plain(pixels_BCHW: Tensor, plain: Sequence[tuple[int, int, int]], recolour: bool) -> Drawing:
    """Return images parted into what they show and their background.

    Args:
        pixels_BCHW: Images in [-1, 1].
        plain: Colours of plain backgrounds, of 255; none for photographs.
        recolour: Whether the images get the first colour as their background.
    """
    plain_K3 = (torch.tensor(plain).view(-1, 3) / 127.5 - 1).to(pixels_BCHW)
    shown, background_B = foreground(pixels_BCHW, plain_K3)
    if recolour and len(plain):
        pixels_BCHW = recoloured(pixels_BCHW, shown, background_B, plain_K3)
    return Drawing(pixels=pixels_BCHW, shown=shown, background_B=background_B)


def foreground(pixels_BCHW: Tensor, plain_K3: Tensor) -> tuple[Tensor, Tensor]:
    """Return where images show more than their background, and which colour that has.

    The background is the plain colour of most pixels. An image without any has no background.

    Args:
        pixels_BCHW: Images in [-1, 1].
        plain_K3: Colours of plain backgrounds.

    Returns:
        (B, 1, H, W) bool, and the number of the colour (B,); 0 where there is none.
    """
    device = pixels_BCHW.device
    if not len(plain_K3):
        none = torch.zeros(pixels_BCHW.shape[0], dtype=torch.int64, device=device)
        return torch.ones_like(pixels_BCHW[:, :1], dtype=torch.bool), none
    is_near = [
        (pixels_BCHW - colour[:, None, None]).abs().amax(1, keepdim=True) <= TOLERANCE
        for colour in plain_K3
    ]
    near_KB1HW = torch.stack(is_near)
    background_B = near_KB1HW.flatten(2).sum(2).argmax(0)
    is_own_KB = torch.arange(len(is_near), device=device)[:, None] == background_B
    return ~(near_KB1HW & is_own_KB[..., None, None, None]).any(0), background_B


def recoloured(
    pixels_BCHW: Tensor, shown_B1HW: Tensor, background_B: Tensor, plain_K3: Tensor
) -> Tensor:
    """Return images as they would be on the first plain colour.

    A pixel at an edge is part thing, part background. Its part of the thing is taken to be its
    distance from the background over the largest one among its neighbours.

    Args:
        pixels_BCHW: Images in [-1, 1].
        shown_B1HW: Where they show more than their background.
        background_B: The number of its colour.
        plain_K3: Colours of plain backgrounds.
    """
    ground_BC11 = plain_K3[background_B][:, :, None, None]
    distance = (pixels_BCHW - ground_BC11).square().sum(1, keepdim=True).sqrt()
    at_edge = F.max_pool2d((~shown_B1HW).float(), 3, 1, 1) > 0
    part = distance / F.max_pool2d(distance, 3, 1, 1).clamp(min=1e-6)
    part = torch.where(at_edge, part, torch.ones_like(part)) * shown_B1HW
    moved = pixels_BCHW + (1 - part) * (plain_K3[:1, :, None, None] - ground_BC11)
    return torch.where(shown_B1HW, moved, plain_K3[:1, :, None, None]).clamp(-1, 1)
