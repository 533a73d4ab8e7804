"""Autoencoder of latent diffusion, in SDXL's form.

Parameter names are those that diffusers writes today.

Shapes: B batch, C channels, Z latent channels, H, W pixels, h, w latent cells, N = h * w.

Source: arXiv 2112.10752, diffusers' code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from janus_edge.model.codebook import Downsample, ResnetBlock, Upsample, group_norm
from janus_edge.model.numbers import check_numbers

_SHORTCUT = "conv_shortcut"
_LOGVAR_RANGE = (-30.0, 20.0)
_CLASS = "AutoencoderKL"
_BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
# The only supported values of options that SDXL's autoencoder does not use.
_PLAIN: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "act_fn": "silu",
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
}
_IGNORED = ("sample_size", "force_upcast")  # for tiles and for fp16, which we do not use
_DEFAULTS: dict[str, Any] = {  # diffusers' own, for what a config leaves out
    "latent_channels": 4,
    "block_out_channels": [64],
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(r"(?<=\.attentions\.0\.)(query|key|value|proj_attn)(?=\.)")


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Sizes of the autoencoder.

    Attributes:
        latent_channels: Channels Z of a latent.
        block_out_channels: Channels per level; the last is the lowest resolution. Each level but
            that one halves the image.
        layers_per_block: Residual blocks per level of the encoder; the decoder has one more.
        norm_num_groups: Groups of each group norm.
        scaling_factor: Factor that brings raw latents to unit variance.
    """

    latent_channels: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    norm_num_groups: int
    scaling_factor: float

    def __post_init__(self) -> None:
        """Check all sizes.

        Raises:
            ValueError: A size is out of range, or a level does not split into groups.
        """
        check_numbers(self)
        for width in self.block_out_channels:
            if width % self.norm_num_groups:
                raise ValueError(
                    f'block_out_channels has "{width}", no multiple of norm_num_groups '
                    f"{self.norm_num_groups}"
                )

    @property
    def stride(self) -> int:
        """Pixels per latent cell, along each side."""
        return 2 ** (len(self.block_out_channels) - 1)


SDXL = VAEConfig(  # stabilityai/sdxl-vae, which the published JanusFlow draws with
    latent_channels=4,
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    norm_num_groups=32,
    scaling_factor=0.13025,
)


def read_vae_config(raw: dict[str, Any]) -> VAEConfig:
    """Return the sizes in diffusers' config.json of an autoencoder.

    Raises:
        ValueError: A key is unknown or its value unsupported; the error names it.
    """
    if raw.get("_class_name") != _CLASS:
        raise ValueError(f'_class_name is "{raw.get("_class_name")}"; only "{_CLASS}" is supported')
    known = {*_DEFAULTS, *_BLOCKS, *_PLAIN, *_IGNORED}
    unknown = sorted(key for key in raw if key not in known and not key.startswith("_"))
    if unknown:
        raise ValueError(f"the autoencoder's config has unknown keys: {', '.join(unknown)}")
    for key, value in _PLAIN.items():
        if raw.get(key, value) != value:
            raise ValueError(f'{key} is "{raw[key]}"; only "{value}" is supported')
    found = {key: raw.get(key, value) for key, value in _DEFAULTS.items()}
    if not isinstance(found["block_out_channels"], list):
        raise ValueError(f'block_out_channels is "{found["block_out_channels"]}", not a list')
    widths = found["block_out_channels"]
    for key, block in _BLOCKS.items():
        if raw.get(key, [block]) != [block] * len(widths):  # diffusers' default is one level
            raise ValueError(f"{key} is {raw.get(key)}; only {len(widths)} {block} are supported")
    return VAEConfig(**found | {"block_out_channels": tuple(widths)})


def vae_config_json(config: VAEConfig) -> dict[str, Any]:
    """Return the config.json that ``read_vae_config`` and diffusers read."""
    widths = list(config.block_out_channels)
    return {
        "_class_name": _CLASS,
        "act_fn": _PLAIN["act_fn"],
        "block_out_channels": widths,
        **{key: [block] * len(widths) for key, block in _BLOCKS.items()},
        "in_channels": _PLAIN["in_channels"],
        "latent_channels": config.latent_channels,
        "layers_per_block": config.layers_per_block,
        "norm_num_groups": config.norm_num_groups,
        "out_channels": _PLAIN["out_channels"],
        "scaling_factor": config.scaling_factor,
    }


def diffusers_name(name: str) -> str:
    """Return the name that diffusers writes today for a tensor with an old attention name.

    Other names are returned as they are. The old weights may have the shape of 1x1 convolutions.
    """
    return _OLD_NAME.sub(lambda match: _OLD_NAMES[match[1]], name)


class Attention(nn.Module):
    """Single-head self-attention over all cells of a map (B, C, h, w)."""

    def __init__(self, channels: int, num_groups: int) -> None:
        """Create the norm and the projections."""
        super().__init__()
        self.group_norm = group_norm(channels, num_groups)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Return the map plus what each cell attends to."""
        x_BNC = self.group_norm(x_BChw).flatten(2).transpose(1, 2)
        q, k, v = (f(x_BNC)[:, None] for f in (self.to_q, self.to_k, self.to_v))
        mixed_BNC = self.to_out[0](F.scaled_dot_product_attention(q, k, v)[:, 0])
        return x_BChw + mixed_BNC.transpose(1, 2).reshape(x_BChw.shape)


class Middle(nn.Module):
    """Residual block, attention, residual block, at the lowest resolution."""

    def __init__(self, channels: int, num_groups: int) -> None:
        """Create the blocks."""
        super().__init__()
        self.attentions = nn.ModuleList([Attention(channels, num_groups)])
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, num_groups) for _ in range(2))

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Return the map (B, C, h, w) after all three blocks."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x_BChw)))


class Level(nn.Module):
    """Residual blocks at one resolution, then possibly a resize."""

    def __init__(self, channels: list[int], num_groups: int, resize: str | None) -> None:
        """Create the blocks.

        Args:
            channels: Channels before the first block, then after each block.
            num_groups: Groups of each group norm.
            resize: ``downsamplers``, ``upsamplers`` (diffusers' names) or None.
        """
        super().__init__()
        blocks = (ResnetBlock(a, b, num_groups, _SHORTCUT) for a, b in pairwise(channels))
        self.resnets = nn.ModuleList(blocks)
        self.resize = resize
        if resize is not None:
            self.add_module(resize, nn.ModuleList([_RESIZE[resize](channels[-1])]))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the map after all blocks and the resize."""
        for block in self.resnets:
            x_BCHW = block(x_BCHW)
        return x_BCHW if self.resize is None else self.get_submodule(f"{self.resize}.0")(x_BCHW)


_RESIZE: dict[str, type[nn.Module]] = {"downsamplers": Downsample, "upsamplers": Upsample}


class Encoder(nn.Module):
    """Encoder of images (B, 3, H, W) in [-1, 1] to moments (B, 2 Z, h, w)."""

    def __init__(self, config: VAEConfig) -> None:
        """Create the levels, highest resolution first."""
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = _levels(widths, config.layers_per_block, groups, "downsamplers")
        self.mid_block = Middle(widths[-1], groups)
        self.conv_norm_out = group_norm(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the moments (B, 2 Z, h, w), before ``quant_conv``."""
        x_BCHW = self.conv_in(x_BCHW)
        for level in self.down_blocks:
            x_BCHW = level(x_BCHW)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x_BCHW))))


class Decoder(nn.Module):
    """Decoder of latents (B, Z, h, w) to images (B, 3, h * stride, w * stride), about [-1, 1]."""

    def __init__(self, config: VAEConfig) -> None:
        """Create the levels, lowest resolution first."""
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = Middle(widths[0], groups)
        self.up_blocks = _levels(widths, config.layers_per_block + 1, groups, "upsamplers")
        self.conv_norm_out = group_norm(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, z_BZhw: Tensor) -> Tensor:
        """Return the image (B, 3, H, W), about [-1, 1]."""
        x_BCHW = self.mid_block(self.conv_in(z_BZhw))
        for level in self.up_blocks:
            x_BCHW = level(x_BCHW)
        return self.conv_out(F.silu(self.conv_norm_out(x_BCHW)))


class VAE(nn.Module):
    """Autoencoder of images. Raw latents are the encoder's; scaled latents are the flow's."""

    def __init__(self, config: VAEConfig) -> None:
        """Create the encoder and the decoder."""
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    def encode(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the raw latent, each (B, Z, h, w)."""
        moments = self.quant_conv(self.encoder(pixels_BCHW))
        mean_BZhw, logvar_BZhw = moments.chunk(2, dim=1)
        return mean_BZhw, logvar_BZhw.clamp(*_LOGVAR_RANGE)

    def decode(self, latent_BZhw: Tensor) -> Tensor:
        """Return the pixels (B, 3, H, W) of a raw latent, about [-1, 1], not clipped."""
        return self.decoder(self.post_quant_conv(latent_BZhw))

    def to_latent(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the scaled latent (B, Z, h, w), of about unit variance, of pixels in [-1, 1]."""
        return self.encode(pixels_BCHW)[0] * self.config.scaling_factor

    def to_pixels(self, latent_BZhw: Tensor) -> Tensor:
        """Return the pixels (B, 3, H, W) of a scaled latent, about [-1, 1]."""
        return self.decode(latent_BZhw / self.config.scaling_factor)


def _levels(
    widths: tuple[int, ...], num_blocks: int, num_groups: int, resize: str
) -> nn.ModuleList:
    """Return one level per width, in the order given; all but the last end with a resize."""
    before, last = (widths[0], *widths), len(widths) - 1
    return nn.ModuleList(
        Level([before[i]] + [width] * num_blocks, num_groups, None if i == last else resize)
        for i, width in enumerate(widths)
    )
