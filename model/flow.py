"""JanusFlow's velocity network around the language model.

A shallow convolutional encoder turns a latent into tokens; a decoder turns the hidden states into
the velocity; a long skip connection joins the two. Parameter names are the published ones.

Shapes: B batch, Z latent channels, C channels, D language width, H, W latent cells, h, w tokens
along the sides.

Source: arXiv 2411.07975, section 3.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_edge.model.config import FlowConfig

TIME_SCALE = 1000.0  # the network was trained on t * 1000


class TimeEmbed(nn.Module):
    """Embedding of timesteps t (B,) in 0..1 as (B, D): sinusoids, cosines first, and two layers."""

    def __init__(self, channels: int, width: int) -> None:
        """Create the layers.

        Args:
            channels: Number of sinusoids, half of them cosines.
            width: Width D of the embedding.
        """
        super().__init__()
        self.channels = channels
        self.linear_1 = nn.Linear(channels, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, t_B: Tensor) -> Tensor:
        """Return the embedding (B, D) of the timesteps."""
        half = torch.arange(self.channels // 2, device=t_B.device, dtype=torch.float32)
        rates = torch.exp(-math.log(10000.0) / (self.channels // 2) * half)
        angle = t_B[:, None].float() * TIME_SCALE * rates
        waves = torch.cat((angle.cos(), angle.sin()), dim=-1)
        return self.linear_2(F.silu(self.linear_1(waves)))


class GlobalResponseNorm(nn.Module):
    """Scale each channel by its norm over the map, relative to the mean over channels.

    Source: arXiv 2301.00808.
    """

    def __init__(self, channels: int) -> None:
        """Create the weight and the bias, both zero."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.bias = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x_BhwC: Tensor) -> Tensor:
        """Return the normalised map (B, h, w, C)."""
        # The gradient of the root of a sum is NaN where a channel is zero all over the map.
        strength = torch.linalg.vector_norm(x_BhwC.float(), dim=(1, 2), keepdim=True)
        share = (strength / (strength.mean(-1, keepdim=True) + 1e-6)).to(x_BhwC.dtype)
        return self.bias + (self.weight * share + 1) * x_BhwC


class _RMSNorm(nn.RMSNorm):
    """RMS norm in its weight's dtype: in autocast's dtype, PyTorch's norm is slow and warns."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution and MLP with a residual, then scaled and shifted by the timestep."""

    def __init__(self, channels: int, width: int, eps: float) -> None:
        """Create the layers.

        Args:
            channels: Channels C of the map.
            width: Width D of the timestep's embedding.
            eps: Epsilon of the norm.
        """
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = _RMSNorm(channels, eps=eps)
        self.channelwise_linear_1 = nn.Linear(channels, 4 * channels)
        self.channelwise_norm = GlobalResponseNorm(4 * channels)
        self.channelwise_linear_2 = nn.Linear(4 * channels, channels)
        self.cond_embeds_mapper = nn.Linear(width, 2 * channels)

    def forward(self, x_BChw: Tensor, t_BD: Tensor) -> Tensor:
        """Return the map (B, C, h, w) at the timestep with embedding ``t_BD``."""
        y = self.norm(self.depthwise(x_BChw).permute(0, 2, 3, 1))
        y = self.channelwise_norm(F.gelu(self.channelwise_linear_1(y)))
        x_BChw = x_BChw + self.channelwise_linear_2(y).permute(0, 3, 1, 2)
        scale, shift = self.cond_embeds_mapper(F.silu(t_BD))[..., None, None].chunk(2, dim=1)
        return x_BChw * (1 + scale) + shift


class MiddleBlock(nn.Module):
    """ConvNeXt blocks in sequence."""

    def __init__(self, channels: int, width: int, config: FlowConfig) -> None:
        """Create the blocks.

        Args:
            channels: Channels C of the map.
            width: Width D of the timestep's embedding.
            config: Number of blocks and epsilon.
        """
        super().__init__()
        self.res_blocks = nn.ModuleList(
            ConvNeXtBlock(channels, width, config.norm_eps) for _ in range(config.layers_in_middle)
        )

    def forward(self, x_BChw: Tensor, t_BD: Tensor) -> Tensor:
        """Return the map (B, C, h, w) after all blocks."""
        for block in self.res_blocks:
            x_BChw = block(x_BChw, t_BD)
        return x_BChw


class FlowEncoder(nn.Module):
    """Encoder of a latent (B, Z, H, W) and its timestep to a map."""

    def __init__(self, config: FlowConfig, width: int) -> None:
        """Create the layers; ``width`` is the language model's width D."""
        super().__init__()
        self.time_embed = TimeEmbed(config.channels, width)
        self.in_conv = nn.Conv2d(
            config.latent_channels, config.channels, config.patch, stride=config.patch
        )
        self.mid_block = MiddleBlock(config.channels, width, config)

    def forward(self, z_BZHW: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map (B, C, h, w), which is also the skip connection, and t's embedding (B, D).

        Args:
            z_BZHW: Latent.
            t_B: Timestep in 0..1.
        """
        t_BD = self.time_embed(t_B)
        return self.mid_block(self.in_conv(z_BZHW), t_BD), t_BD


class _ChannelNorm(_RMSNorm):
    """RMS norm over the channels of a map (B, C, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class _Unpatch(nn.Module):
    """Layers from a map (B, C, h, w) to the latent's size (B, Z, H, W)."""

    def __init__(self, channels: int, config: FlowConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.norm = _ChannelNorm(channels, eps=config.norm_eps)
        self.unpatch_conv = nn.Conv2d(channels, config.latent_channels * config.patch**2, 1)

    def forward(self, x_BChw: Tensor) -> Tensor:
        return F.pixel_shuffle(self.unpatch_conv(self.norm(x_BChw)), self.patch)


class FlowDecoder(nn.Module):
    """Decoder of the hidden states' map to a velocity."""

    def __init__(self, config: FlowConfig, width: int) -> None:
        """Create the layers; ``width`` is the language model's width D."""
        super().__init__()
        channels = 2 * config.channels
        self.input_norm = _ChannelNorm(config.channels, eps=config.norm_eps)
        self.mid_block = MiddleBlock(channels, width, config)
        self.out_convs = nn.ModuleList([_Unpatch(channels, config)])

    def forward(self, x_BChw: Tensor, skip_BChw: Tensor, t_BD: Tensor) -> Tensor:
        """Return the velocity (B, Z, H, W).

        Args:
            x_BChw: Map of the hidden states.
            skip_BChw: The encoder's map.
            t_BD: The timestep's embedding.
        """
        joined = torch.cat((self.input_norm(x_BChw), skip_BChw), dim=1)
        return self.out_convs[0](self.mid_block(joined, t_BD))
