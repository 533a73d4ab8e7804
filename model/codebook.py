"""VQ image tokenizer: encoder, quantizer, decoder.

Shapes: B batch, C channels, H and W in pixels or codes, K codebook size, N codes, E code channels.

Source: LlamaGen's VQ-16, arXiv 2406.06525.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_edge.model.config import CodebookConfig
from janus_edge.model.plain import on_plain


class ResnetBlock(nn.Module):
    """Norm, SiLU and 3x3 convolution, twice, added to a shortcut."""

    def __init__(
        self, in_channels: int, out_channels: int, num_groups: int, shortcut: str = "nin_shortcut"
    ) -> None:
        """Create the layers.

        Args:
            in_channels: Channels of the input.
            out_channels: Channels of the output; if they differ, the shortcut is a 1x1 convolution.
            num_groups: Groups of each group norm.
            shortcut: Name of that convolution's parameters; published models use two names.
        """
        super().__init__()
        self.norm1 = group_norm(in_channels, num_groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels, num_groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = None if in_channels == out_channels else shortcut
        if self.shortcut is not None:
            self.add_module(self.shortcut, nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return a map of the same height and width with ``out_channels`` channels."""
        h_BCHW = self.conv1(F.silu(self.norm1(x_BCHW)))
        h_BCHW = self.conv2(F.silu(self.norm2(h_BCHW)))
        if self.shortcut is not None:
            x_BCHW = self.get_submodule(self.shortcut)(x_BCHW)
        return x_BCHW + h_BCHW


class AttnBlock(nn.Module):
    """Single-head self-attention over all positions, by 1x1 convolutions."""

    def __init__(self, channels: int, num_groups: int) -> None:
        """Create the layers for maps of ``channels`` channels."""
        super().__init__()
        self.norm = group_norm(channels, num_groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the map plus what each position attends to."""
        normed = self.norm(x_BCHW)
        q, k, v = (f(normed).flatten(2).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed_BNC = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x_BCHW + self.proj_out(mixed_BNC.transpose(1, 2).reshape(x_BCHW.shape))


class Downsample(nn.Module):
    """Halve height and width with a stride-2 convolution, padded on the right and bottom only."""

    def __init__(self, channels: int) -> None:
        """Create the convolution."""
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return a map (B, C, H/2, W/2)."""
        return self.conv(F.pad(x_BCHW, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double height and width by repeating pixels, then convolve."""

    def __init__(self, channels: int) -> None:
        """Create the convolution."""
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return a map (B, C, 2 H, 2 W)."""
        return self.conv(F.interpolate(x_BCHW, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks at one resolution, optionally with attention after each, then a resize."""

    def __init__(
        self, channels: list[int], num_groups: int, *, attention: bool, resize: str | None
    ) -> None:
        """Create the blocks.

        Args:
            channels: Channels before the first block, then after each block.
            num_groups: Groups of each group norm.
            attention: Whether an attention block follows each residual block.
            resize: ``downsample``, ``upsample`` or None: what ends the level.
        """
        super().__init__()
        pairs = list(pairwise(channels))
        self.res = nn.ModuleList(ResnetBlock(a, b, num_groups) for a, b in pairs)
        self.attn = nn.ModuleList(AttnBlock(b, num_groups) for _, b in pairs if attention)
        self.resize = resize
        if resize is not None:
            self.add_module(resize, _RESIZE[resize](channels[-1]))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the map after all blocks and the resize."""
        for i, block in enumerate(self.res):
            x_BCHW = block(x_BCHW)
            if len(self.attn):
                x_BCHW = self.attn[i](x_BCHW)
        return x_BCHW if self.resize is None else self.get_submodule(self.resize)(x_BCHW)


_RESIZE: dict[str, type[nn.Module]] = {"downsample": Downsample, "upsample": Upsample}


class Encoder(nn.Module):
    """Encoder of images (B, 3, H, W) in [-1, 1] to maps (B, z_channels, H/stride, W/stride)."""

    def __init__(self, config: CodebookConfig) -> None:
        """Create the levels, highest resolution first."""
        super().__init__()
        widths = [config.channels * m for m in config.encoder_ch_mult]
        groups, last = config.num_groups, len(widths) - 1
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.conv_blocks = nn.ModuleList(
            Level(
                [widths[max(i - 1, 0)] if i else config.channels] + [width] * config.num_res_blocks,
                groups,
                attention=i == last,
                resize=None if i == last else "downsample",
            )
            for i, width in enumerate(widths)
        )
        self.mid = _middle(widths[-1], groups)
        self.norm_out = group_norm(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the image's map (B, z_channels, H/stride, W/stride)."""
        x_BCHW = self.conv_in(x_BCHW)
        for level in (*self.conv_blocks, *self.mid):
            x_BCHW = level(x_BCHW)
        return self.conv_out(F.silu(self.norm_out(x_BCHW)))


class Decoder(nn.Module):
    """Decoder of maps (B, z_channels, h, w) to images (B, 3, h*stride, w*stride), about [-1, 1]."""

    def __init__(self, config: CodebookConfig) -> None:
        """Create the levels, lowest resolution first."""
        super().__init__()
        widths = [config.channels * m for m in reversed(config.decoder_ch_mult)]
        groups, last = config.num_groups, len(widths) - 1
        self.conv_in = nn.Conv2d(config.z_channels, widths[0], 3, padding=1)
        self.mid = _middle(widths[0], groups)
        self.conv_blocks = nn.ModuleList(
            Level(
                [widths[max(i - 1, 0)]] + [width] * (config.num_res_blocks + 1),
                groups,
                attention=i == 0,
                resize=None if i == last else "upsample",
            )
            for i, width in enumerate(widths)
        )
        self.norm_out = group_norm(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, z_BCHW: Tensor) -> Tensor:
        """Return the image (B, 3, H, W), about [-1, 1]."""
        z_BCHW = self.conv_in(z_BCHW)
        for level in (*self.mid, *self.conv_blocks):
            z_BCHW = level(z_BCHW)
        return self.conv_out(F.silu(self.norm_out(z_BCHW)))


class Quantizer(nn.Module):
    """Nearest entry of a codebook; both are L2-normalised if ``l2_norm`` is set in the config."""

    def __init__(self, config: CodebookConfig) -> None:
        """Create the codebook of ``config.size`` codes with ``config.dim`` channels each."""
        super().__init__()
        self.l2_norm = config.l2_norm
        self.embedding = nn.Embedding(config.size, config.dim)

    def table(self) -> Tensor:
        """Return the codebook as it is looked up, (K, E)."""
        weight_KE = self.embedding.weight
        return F.normalize(weight_KE, dim=-1) if self.l2_norm else weight_KE

    def distances(self, z_BEHW: Tensor) -> Tensor:
        """Return squared distances of positions to codes, less a term that all codes share.

        Returns:
            Distances (B, H*W, K), positions in raster order.
        """
        z_BNE = z_BEHW.flatten(2).transpose(1, 2)
        if self.l2_norm:
            z_BNE = F.normalize(z_BNE, dim=-1)
        table_KE = self.table()
        return table_KE.square().sum(-1) - 2 * z_BNE @ table_KE.T

    def nearest(self, z_BEHW: Tensor) -> Tensor:
        """Return the nearest codes (B, H*W), int64, in raster order."""
        return self.distances(z_BEHW).argmin(-1)

    def lookup(self, codes_BN: Tensor, height: int, width: int) -> Tensor:
        """Return the vectors (B, E, height, width) of codes in raster order."""
        vectors_BNE = F.embedding(codes_BN, self.table())
        return vectors_BNE.transpose(1, 2).reshape(codes_BN.shape[0], -1, height, width)


class ImageEncoder(nn.Module):
    """Images to codes; plain cells have the code of their background (``model/plain.py``)."""

    def __init__(self, config: CodebookConfig) -> None:
        """Create the encoder and the codebook."""
        super().__init__()
        self.plain, self.recoloured = config.plain, config.recoloured
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.z_channels, config.dim, 1)
        self.quantize = Quantizer(config)

    def latent(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the continuous latent (B, E, h, w) of pixels in [-1, 1], before quantization."""
        return self.quant_conv(self.encoder(pixels_BCHW))

    def distances(self, pixels_BCHW: Tensor) -> Tensor:
        """Return what each code is away from each cell of images in [-1, 1], (B, h*w, K)."""
        if not self.plain:
            return self.quantize.distances(self.latent(pixels_BCHW))
        drawing = on_plain(pixels_BCHW, self.plain, self.recoloured)
        latent = self.latent(drawing.pixels)
        found_BNK = self.quantize.distances(latent)
        is_plain_BN = drawing.plain_cells(latent.shape[-1]).flatten(1)
        codes_K = torch.arange(found_BNK.shape[-1], device=latent.device)
        is_own_BK = drawing.background_B[:, None] == codes_K
        nearest = found_BNK.amin(-1, keepdim=True) - 1
        return torch.where(is_plain_BN[..., None] & is_own_BK[:, None], nearest, found_BNK)

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the codes (B, h*w), int64, of pixels in [-1, 1]."""
        return self.distances(pixels_BCHW).argmin(-1)


class VQTokenizer(ImageEncoder):
    """Tokenizer of images to codes and back."""

    def __init__(self, config: CodebookConfig) -> None:
        """Create the encoder, the codebook and the decoder."""
        super().__init__(config)
        self.post_quant_conv = nn.Conv2d(config.dim, config.z_channels, 1)
        self.decoder = Decoder(config)

    def decode_latent(self, z_BEHW: Tensor) -> Tensor:
        """Return the pixels (B, 3, H, W) of a quantized latent, about [-1, 1]."""
        return self.decoder(self.post_quant_conv(z_BEHW))

    def decode(self, codes_BN: Tensor) -> Tensor:
        """Return the pixels (B, 3, H, W) of a square image's codes, about [-1, 1], not clipped."""
        side = int(codes_BN.shape[1] ** 0.5)
        return self.decode_latent(self.quantize.lookup(codes_BN, side, side))


def group_norm(channels: int, num_groups: int) -> nn.GroupNorm:
    """Return a group norm with the epsilon of the published tokenizer and SDXL's autoencoder."""
    return nn.GroupNorm(num_groups, channels, eps=1e-6)


def _middle(channels: int, num_groups: int) -> nn.ModuleList:
    """Return residual block, attention, residual block, at the lowest resolution."""
    return nn.ModuleList(
        (
            ResnetBlock(channels, channels, num_groups),
            AttnBlock(channels, num_groups),
            ResnetBlock(channels, channels, num_groups),
        )
    )
