"""Janus and Janus-Pro: one language model, two visual paths.

Parameter names are the published ones.

Shapes: B batch, T time, N image tokens, D width, K codebook size.

Source: arXiv 2410.13848, 2501.17811.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_edge.model.codebook import VQTokenizer
from janus_edge.model.config import JanusConfig
from janus_edge.model.encoders import make_encoder
from janus_edge.model.language import LanguageModel
from janus_edge.model.vision import Aligner
from janus_edge.model.vision_language import VisionLanguageModel


class ImageHead(nn.Module):
    """Head from hidden states (…, D) to code logits (…, K)."""

    def __init__(self, width: int, hidden: int, num_codes: int) -> None:
        """Create the layers.

        Args:
            width: Width D of the hidden states.
            hidden: Width of the hidden layer.
            num_codes: Codebook size K.
        """
        super().__init__()
        self.output_mlp_projector = nn.Linear(width, hidden)
        self.vision_head = nn.Linear(hidden, num_codes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the code logits (…, K)."""
        return self.vision_head(F.gelu(self.output_mlp_projector(x)))


class Janus(VisionLanguageModel):
    """Model that understands images through SigLIP, as published, and draws them as VQ codes."""

    def __init__(self, config: JanusConfig) -> None:
        """Create all parts with untrained weights."""
        super().__init__()
        width, book = config.language.hidden_size, config.codebook
        self.config = config
        self.vision_model = make_encoder(config.vision, book)
        self.aligner = Aligner(config.vision.width, width, config.aligner.depth)
        self.gen_vision_model = VQTokenizer(book)
        self.gen_embed = nn.Embedding(book.size, book.dim)
        self.gen_aligner = Aligner(book.dim, width, config.gen_aligner.depth)
        self.gen_head = ImageHead(width, config.gen_head.image_token_embed, book.size)
        self.language_model = LanguageModel(config.language)

    def embed_images(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the images' vectors (B, N, D), which replace their placeholders."""
        return self.aligner(self.vision_model(pixels_BCHW))

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Return the decoder inputs (…, D) of codes (…)."""
        return self.gen_aligner(self.gen_embed(codes))

    def image_logits(self, hidden: Tensor) -> Tensor:
        """Return the code logits (…, K) of hidden states (…, D)."""
        return self.gen_head(hidden)


def unconditional(ids_BT: Tensor, pad: int) -> Tensor:
    """Return prompts with every id but the first and the last replaced by ``pad``.

    These are the prompts of the unconditional rows of classifier-free guidance.

    Args:
        ids_BT: Token ids of prompts of equal length.
        pad: Token id of padding.
    """
    out = torch.full_like(ids_BT, pad)
    out[:, 0], out[:, -1] = ids_BT[:, 0], ids_BT[:, -1]
    return out


def guide(cond: Tensor, uncond: Tensor, guidance_scale: float) -> Tensor:
    """Return logits with classifier-free guidance: uncond + s * (cond - uncond).

    Args:
        cond: Logits of the conditional rows.
        uncond: Logits of the unconditional rows, of the same shape.
        guidance_scale: Guidance scale s; 1 for none.
    """
    return uncond + guidance_scale * (cond - uncond)
