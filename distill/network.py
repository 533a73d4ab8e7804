"""The preview decoder: a small network from unfinished codes or an unfinished latent to pixels.

It has convolutions and no statistics of the whole image, so that a finished part does not change
its look when the rest arrives. It adds to the linear preview map, where training begins.

Shapes: B images, N codes, K codebook size, F features of a cell, Z latent channels, H, W latent
cells, h, w cells, C channels, S pixels per side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_edge.runtime.sizes import CodeSizes, FlowSizes, Sizes

NUM_COMPONENTS = 12  # principal components of the codes' embeddings among a cell's features
# Channels, and the blocks' dilations: 19 and 31 cells are seen, and so the rest is continued. Small
# images are drawn so fast that their previews have to be.
SMALL_IMAGE = 128  # pixels per side at most
SMALL, LARGE = (48, (1, 2, 4, 1)), (128, (1, 2, 4, 1, 2, 4))


class _Block(nn.Module):
    """A dilated 3x3 convolution and a 1x1 convolution, added to what goes in."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv2d(width, width, 1)
        for parameter in self.mix.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Return a map of the same shape."""
        return x_BChw + self.mix(F.leaky_relu(self.look(x_BChw)))


class PreviewDecoder(nn.Module):
    """Computes pixels from the features of cells."""

    def __init__(
        self, num_features: int, cell: int, image_size: int, linear_FC: Tensor, constant_C: Tensor
    ) -> None:
        """Create the layers.

        Args:
            num_features: F.
            cell: Pixels along a cell.
            image_size: S.
            linear_FC: The linear preview map from features to RGB in [-1, 1], (F, 3).
            constant_C: Its constant.
        """
        super().__init__()
        width, dilations = SMALL if image_size <= SMALL_IMAGE else LARGE
        self.inner = nn.Conv2d(num_features, width, 3, padding=1)
        self.blocks = nn.ModuleList(_Block(width, dilation) for dilation in dilations)
        self.outer = nn.Conv2d(width, 3 * cell * cell, 1, bias=False)
        self.linear = nn.Conv2d(num_features, 3 * cell * cell, 1)
        self._cell = cell
        with torch.no_grad():
            self.outer.weight.mul_(0.1)
            weight_OF, bias_O = (
                each.repeat_interleave(cell * cell, dim=0) for each in (linear_FC.T, constant_C)
            )
            self.linear.load_state_dict({"weight": weight_OF[..., None, None], "bias": bias_O})

    def forward(self, features_BFhw: Tensor) -> Tensor:
        """Return pixels (B, 3, S, S), about [-1, 1]."""
        x_BChw = self.inner(features_BFhw)
        for block in self.blocks:
            x_BChw = block(x_BChw)
        made = self.outer(F.leaky_relu(x_BChw)) + self.linear(features_BFhw)
        return F.pixel_shuffle(made, self._cell)


class OfCodes(nn.Module):
    """Computes pixels from codes (B, N), where K stands for a code that is not drawn yet."""

    def __init__(self, sizes: CodeSizes, embeds_KD: Tensor, colours_KC: Tensor) -> None:
        """Create the layers.

        Args:
            sizes: The sizes of the bundle.
            embeds_KD: Embeddings of the codes.
            colours_KC: The linear preview map's colours of the codes, RGB in [0, 255].
        """
        super().__init__()
        centred = embeds_KD - embeds_KD.mean(0)
        components = min(NUM_COMPONENTS, *centred.shape)
        _, _, basis_DF = torch.pca_lowrank(centred, components, center=False, niter=8)
        found = centred @ basis_DF
        found = found / found.std(0).clamp(min=1e-6)
        drawn = torch.ones(len(embeds_KD), 1)
        table = torch.cat([colours_KC / 127.5 - 1, drawn, found], dim=1)
        self.table = nn.Parameter(F.pad(table, (0, 0, 0, 1)))  # the last row: not drawn
        linear_FC = F.pad(torch.eye(3), (0, 0, 0, table.shape[1] - 3))
        cell = sizes.image_size // sizes.code_grid
        self.decoder = PreviewDecoder(
            table.shape[1], cell, sizes.image_size, linear_FC, torch.zeros(3)
        )
        self._grid = sizes.code_grid

    def forward(self, codes_BN: Tensor) -> Tensor:
        """Return pixels (B, 3, S, S), about [-1, 1]."""
        cells_BNF = F.embedding(codes_BN, self.table)
        cells_BhwF = torch.unflatten(cells_BNF, 1, (self._grid, self._grid))
        pixels: Tensor = self.decoder(cells_BhwF.movedim(-1, 1))
        return pixels


class OfLatents(nn.Module):
    """Computes pixels from latents (B, Z, H, W)."""

    def __init__(self, sizes: FlowSizes, linear_FC: Tensor) -> None:
        """Create the layers.

        Args:
            sizes: The sizes of the bundle.
            linear_FC: The linear preview map (Z + 1, 3) to RGB in [0, 255]; see ``fit_latents``.
        """
        super().__init__()
        self._patch = sizes.latent_size // sizes.latent_grid
        features = sizes.latent_channels * self._patch**2
        self.decoder = PreviewDecoder(
            features,
            sizes.image_size // sizes.latent_grid,
            sizes.image_size,
            torch.zeros(features, 3),
            linear_FC[-1] / 127.5 - 1,
        )
        with torch.no_grad():
            _set_linear(self.decoder, linear_FC[:-1] / 127.5, self._patch)

    def forward(self, latents_BZHW: Tensor) -> Tensor:
        """Return pixels (B, 3, S, S), about [-1, 1]."""
        pixels: Tensor = self.decoder(F.pixel_unshuffle(latents_BZHW, self._patch))
        return pixels


def _set_linear(decoder: PreviewDecoder, linear_ZC: Tensor, patch: int) -> None:
    """Give a decoder the linear map of latents: each of a cell's ``patch**2`` has its own pixels.

    Args:
        decoder: Changed in place.
        linear_ZC: From a latent's channels to RGB in [0, 2], (Z, 3).
        patch: Latents along a cell.
    """
    channels, cell = len(linear_ZC), decoder._cell
    side = cell // patch  # pixels along a latent
    weight = decoder.linear.weight.view(3, cell, cell, channels, patch, patch)
    for y in range(patch):
        for x in range(patch):
            pixels = weight[:, y * side : (y + 1) * side, x * side : (x + 1) * side, :, y, x]
            pixels.copy_(linear_ZC.T[:, None, None].expand_as(pixels))


def as_linear(decoder: OfCodes | OfLatents) -> OfCodes | OfLatents:
    """Change a decoder that is not trained into the linear preview map, and return it."""
    with torch.no_grad():
        decoder.decoder.outer.weight.zero_()
    return decoder


def preview_decoder(sizes: Sizes, embeds_KD: Tensor | None, preview: Tensor) -> OfCodes | OfLatents:
    """Return a decoder whose previews are the linear map's.

    Args:
        sizes: The sizes of the bundle.
        embeds_KD: Embeddings of the codes; None for a flow.
        preview: The bundle's linear preview map.
    """
    torch.manual_seed(0)
    if isinstance(sizes, FlowSizes):
        return OfLatents(sizes, preview)
    assert isinstance(sizes, CodeSizes) and embeds_KD is not None
    return OfCodes(sizes, embeds_KD, preview)
