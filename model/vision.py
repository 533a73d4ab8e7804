"""SigLIP vision encoder and the aligners.

Shapes: B batch, N patches, C vision width, D language width, H heads.

Source: arXiv 2303.15343; arXiv 2410.13848, section 3.1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_edge.model.config import VisionConfig


class PatchEmbed(nn.Module):
    """Linear map of each patch to a vector."""

    def __init__(self, config: VisionConfig) -> None:
        """Create the convolution."""
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the patches' vectors (B, N, C)."""
        return self.proj(pixels_BCHW).flatten(2).transpose(1, 2)


class VisionAttention(nn.Module):
    """Bidirectional attention with fused query, key and value."""

    def __init__(self, config: VisionConfig) -> None:
        """Create the projections."""
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Return what each patch attends to, (B, N, C)."""
        batch, patches, width = x_BNC.shape
        qkv = self.qkv(x_BNC).view(batch, patches, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        return self.proj(mixed.transpose(1, 2).reshape(batch, patches, width))


class VisionMLP(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, config: VisionConfig) -> None:
        """Create the layers."""
        super().__init__()
        hidden = int(config.width * config.mlp_ratio)
        self.fc1 = nn.Linear(config.width, hidden)
        self.fc2 = nn.Linear(hidden, config.width)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Return the output (B, N, C)."""
        return self.fc2(F.gelu(self.fc1(x_BNC)))


class VisionBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: VisionConfig) -> None:
        """Create attention, MLP and their norms."""
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attn = VisionAttention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Return the patches' vectors (B, N, C) after the block."""
        x_BNC = x_BNC + self.attn(self.norm1(x_BNC))
        return x_BNC + self.mlp(self.norm2(x_BNC))


class VisionTower(nn.Module):
    """Encoder of pixels (B, 3, S, S), normalised to mean 0.5 and std 0.5, to features (B, N, C)."""

    def __init__(self, config: VisionConfig) -> None:
        """Create the patch embedding, the position table and the blocks."""
        super().__init__()
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.num_patches, config.width))
        nn.init.normal_(self.pos_embed, std=0.02)
        self.blocks = nn.Sequential(*(VisionBlock(config) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the patch features (B, N, C)."""
        return self.norm(self.blocks(self.patch_embed(pixels_BCHW) + self.pos_embed))


class VisionModel(nn.Module):
    """The tower under its published name."""

    def __init__(self, config: VisionConfig) -> None:
        """Create the tower."""
        super().__init__()
        self.vision_tower = VisionTower(config)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the patch features (B, N, C)."""
        return self.vision_tower(pixels_BCHW)


class Aligner(nn.Module):
    """Linear layers with GELU between, from one width to the language model's."""

    def __init__(self, in_width: int, out_width: int, depth: int) -> None:
        """Create ``depth`` linear layers."""
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(in_width, out_width)]
        for _ in range(depth - 1):
            layers += [nn.GELU(), nn.Linear(out_width, out_width)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the aligned features (…, out_width)."""
        return self.layers(x)
