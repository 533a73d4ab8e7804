"""Llama-type language model with a static KV cache.

Shapes: R rows, T new positions, M cache length, D width, H heads, G key-value heads, E head width,
V vocabulary.

Source: the published config, Llama 2 (arXiv 2307.09288).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_edge.model.config import LanguageConfig


@dataclass
class LayerCache:
    """KV cache of one layer: static buffers, changed in place."""

    keys_RGME: Tensor
    values_RGME: Tensor

    def write(self, at_RGTE: Tensor, k_RGTE: Tensor, v_RGTE: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values to slots of the cache.

        Args:
            at_RGTE: Slot of each key and value (int64).
            k_RGTE: New keys.
            v_RGTE: New values.

        Returns:
            All keys and all values of the cache (R, G, M, E).
        """
        keys = self.keys_RGME.scatter_(2, at_RGTE, k_RGTE.to(self.keys_RGME.dtype))
        return keys, self.values_RGME.scatter_(2, at_RGTE, v_RGTE.to(self.values_RGME.dtype))


class Attention(nn.Module):
    """Causal self-attention with rotary positions.

    Attributes:
        attention: What computes attention; training on a CPU has its own (train/attention.py).
    """

    def __init__(self, config: LanguageConfig) -> None:
        """Create the projections."""
        super().__init__()
        width, head_dim = config.hidden_size, config.head_dim
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.q_proj = nn.Linear(width, self.num_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, self.num_kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, self.num_kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(self.num_heads * head_dim, width, bias=False)
        self.attention: Callable[..., Tensor] = F.scaled_dot_product_attention

    def forward(
        self,
        x_RTD: Tensor,
        cos_RTE: Tensor,
        sin_RTE: Tensor,
        mask: Tensor | None,
        cache: LayerCache | None,
        positions_RT: Tensor,
    ) -> Tensor:
        """Return what each position attends to, (R, T, D).

        Args:
            x_RTD: Normed hidden states.
            cos_RTE: Cosines of ``rope``, (R, T, E/2).
            sin_RTE: Sines of ``rope``, (R, T, E/2).
            mask: Where each position may attend to, (R, 1, T, T or M), bool; None for a causal
                pass.
            cache: KV cache to write to and attend over; None to attend over the new positions
                alone.
            positions_RT: Slots of the new positions in the cache (int64).
        """
        rows, time, _ = x_RTD.shape
        q = self.q_proj(x_RTD).view(rows, time, self.num_heads, -1).transpose(1, 2)
        k = self.k_proj(x_RTD).view(rows, time, self.num_kv_heads, -1).transpose(1, 2)
        v = self.v_proj(x_RTD).view(rows, time, self.num_kv_heads, -1).transpose(1, 2)
        q, k = rotate(q, cos_RTE, sin_RTE), rotate(k, cos_RTE, sin_RTE)
        if cache is not None:
            at = positions_RT[:, None, :, None].expand(-1, self.num_kv_heads, -1, k.shape[-1])
            k, v = cache.write(at, k, v)
        shared = self.num_heads != self.num_kv_heads
        mixed = self.attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=shared)
        return self.o_proj(mixed.transpose(1, 2).reshape(rows, time, -1))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: LanguageConfig) -> None:
        """Create the projections."""
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_RTD: Tensor) -> Tensor:
        """Return the output (R, T, D)."""
        return self.down_proj(F.silu(self.gate_proj(x_RTD)) * self.up_proj(x_RTD))


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, config: LanguageConfig) -> None:
        """Create the attention, the MLP and their norms."""
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        x_RTD: Tensor,
        cos_RTE: Tensor,
        sin_RTE: Tensor,
        mask: Tensor | None,
        cache: LayerCache | None,
        positions_RT: Tensor,
    ) -> Tensor:
        """Return the residual stream after the layer; arguments as in ``Attention.forward``."""
        normed = self.input_layernorm(x_RTD)
        x_RTD = x_RTD + self.self_attn(normed, cos_RTE, sin_RTE, mask, cache, positions_RT)
        return x_RTD + self.mlp(self.post_attention_layernorm(x_RTD))


class Decoder(nn.Module):
    """Transformer from embeddings (R, T, D) to hidden states (R, T, D)."""

    def __init__(self, config: LanguageConfig) -> None:
        """Create the token embedding, the layers and the final norm."""
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        x_RTD: Tensor,
        positions_RT: Tensor | None = None,
        caches: Sequence[LayerCache] | None = None,
        mask_RTT: Tensor | None = None,
    ) -> Tensor:
        """Return hidden states (R, T, D), after the final norm.

        Without caches this is one causal pass. With caches, keys and values are written at
        ``positions_RT``, and each position attends to all slots at or before its own.

        Args:
            x_RTD: Embeddings.
            positions_RT: Positions (int64); None for 0, 1, ...
            caches: KV cache of each layer, changed in place; None for a pass without caches.
            mask_RTT: Without caches: where each position may attend to (bool); None for causal
                attention.
        """
        if positions_RT is None:
            positions_RT = torch.arange(x_RTD.shape[1], device=x_RTD.device)[None]
        cos_RTE, sin_RTE = rope(self.config, positions_RT)
        mask = None if mask_RTT is None else mask_RTT[:, None]
        if caches is not None:
            slots_M = torch.arange(caches[0].keys_RGME.shape[2], device=x_RTD.device)
            mask = (slots_M <= positions_RT[..., None])[:, None]
        for i, layer in enumerate(self.layers):
            cache = None if caches is None else caches[i]
            x_RTD = layer(x_RTD, cos_RTE, sin_RTE, mask, cache, positions_RT)
        return self.norm(x_RTD)


class LanguageModel(nn.Module):
    """Decoder and vocabulary head, named as published."""

    def __init__(self, config: LanguageConfig) -> None:
        """Create the decoder and the head."""
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)


def make_caches(
    config: LanguageConfig,
    rows: int,
    max_length: int,
    device: torch.device | str = "cpu",
) -> list[LayerCache]:
    """Return zeroed KV caches of all layers: static buffers, (R, G, M, E) fp32.

    Args:
        config: Sizes of the language model.
        rows: Number of rows R.
        max_length: Length M of the caches.
        device: Where they are.
    """
    shape = (rows, config.num_key_value_heads, max_length, config.head_dim)
    return [
        LayerCache(torch.zeros(shape, device=device), torch.zeros(shape, device=device))
        for _ in range(config.num_hidden_layers)
    ]


def rope(config: LanguageConfig, positions_RT: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines (R, T, E/2) of rotary positions, fp32.

    Channel i rotates together with channel i + E/2.

    Args:
        config: Head width E and the base of the angles.
        positions_RT: Positions (int64).

    Source: RoFormer, arXiv 2104.09864.
    """
    half = torch.arange(0, config.head_dim, 2, device=positions_RT.device) / config.head_dim
    angle = positions_RT[..., None].float() * config.rope_theta**-half
    return angle.cos(), angle.sin()


def rotate(x_RHTE: Tensor, cos_RTE: Tensor, sin_RTE: Tensor) -> Tensor:
    """Return queries or keys with rotary positions, half-split layout, in the dtype of ``x_RHTE``.

    Args:
        x_RHTE: Queries or keys.
        cos_RTE: Cosines of ``rope``, (R, T, E/2).
        sin_RTE: Sines of ``rope``, (R, T, E/2).
    """
    cos, sin = cos_RTE[:, None].to(x_RHTE.dtype), sin_RTE[:, None].to(x_RHTE.dtype)
    a, b = x_RHTE.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
