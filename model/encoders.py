"""Understanding encoders by name: what turns pixels into vectors that the language model sees.

Another size of one is a config. Another kind is a row of ``ENCODERS``: how it is made, and how
transformers names its tensors.

Shapes: B batch, N patches, C width, S the image's side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_edge.model.codebook import ImageEncoder
from janus_edge.model.config import CodebookConfig, JanusConfig, JanusFlowConfig, VisionConfig
from janus_edge.model.matching import UNUSED, Rename
from janus_edge.model.names import published_name
from janus_edge.model.vision import PatchEmbed, VisionBlock, VisionModel

_DROPPED = UNUSED[0]  # names that begin so are left out
_VIT = {  # transformers' ViTModel
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    ".layernorm_before.": ".norm1.",
    ".layernorm_after.": ".norm2.",
    ".attention.output.dense.": ".attn.proj.",
    ".intermediate.dense.": ".mlp.fc1.",
    ".output.dense.": ".mlp.fc2.",
    "encoder.layer.": "blocks.",
    "layernorm.": "norm.",
}


class ClassTokenVision(nn.Module):
    """A ViT with a class token, whose patches alone are given on.

    Source: arXiv 2010.11929.
    """

    def __init__(self, config: VisionConfig) -> None:
        """Create the embeddings, the blocks and the final norm."""
        super().__init__()
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.num_patches, config.width))
        for each in (self.cls_token, self.pos_embed):
            nn.init.normal_(each, std=0.02)
        self.blocks = nn.Sequential(*(VisionBlock(config) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the patch features (B, N, C) of pixels (B, 3, S, S) in [-1, 1]."""
        x_BNC = self.patch_embed(pixels_BCHW)
        x_BNC = torch.cat([self.cls_token.expand(x_BNC.shape[0], -1, -1), x_BNC], dim=1)
        return self.norm(self.blocks(x_BNC + self.pos_embed))[:, 1:]


class CodeVision(ImageEncoder):
    """The VQ tokenizer as understanding encoder: what an image is drawn with is what is seen.

    The features of a cell are the vector of its code. Source: arXiv 2410.13848, table 5.
    """

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the codes' vectors (B, N, C) of pixels (B, 3, S, S) in [-1, 1]."""
        return F.embedding(self.encode(pixels_BCHW), self.quantize.table())


@dataclass(frozen=True)
class Kind:
    """A kind of understanding encoder.

    Attributes:
        make: Makes one, untrained; the codebook's config is None in a JanusFlow.
        model_types: What transformers calls it in config.json.
        rename: Our name of a tensor of transformers', and which part it is.
    """

    make: Callable[[VisionConfig, CodebookConfig | None], nn.Module]
    model_types: tuple[str, ...] = ()
    rename: Rename | None = None


def make_encoder(config: VisionConfig, codebook: CodebookConfig | None = None) -> nn.Module:
    """Return an untrained understanding encoder.

    Args:
        config: Its kind and sizes.
        codebook: Sizes of the model's VQ tokenizer; None if it has none.

    Raises:
        ValueError: The kind is unknown, or does not fit the model.
    """
    if config.encoder not in ENCODERS:
        raise ValueError(f'encoder "{config.encoder}": give one of {", ".join(ENCODERS)}')
    return ENCODERS[config.encoder].make(config, codebook)


def check_encoder(config: JanusConfig | JanusFlowConfig) -> None:
    """Raise ValueError if a model's understanding encoder is unknown or does not fit it."""
    with torch.device("meta"):
        make_encoder(config.vision, config.codebook if isinstance(config, JanusConfig) else None)


def _codes(config: VisionConfig, codebook: CodebookConfig | None) -> CodeVision:
    if codebook is None:
        raise ValueError('encoder "codes" needs a VQ tokenizer, which a JanusFlow does not have')
    wanted = (codebook.dim, codebook.stride)
    if (config.width, config.patch_size) != wanted:
        raise ValueError(
            f'encoder "codes" has the codes\' width and stride: give width {wanted[0]} and '
            f"patch_size {wanted[1]}"
        )
    return CodeVision(codebook)


def _siglip_name(name: str) -> tuple[str, int | None]:
    """Return our name of a tensor of transformers' SigLIP; its pooling and its text are unused.

    transformers 5 writes a SiglipVisionModel without the prefix that it has in a SiglipModel.
    """
    bare = name.removeprefix("vision_model.")
    if bare.startswith(("head.", "text_model.", "logit_")):
        return f"{_DROPPED}{name}", None
    bare = bare.replace(".self_attn.out_proj.", ".attn.proj.")
    return published_name(f"model.vision_model.{bare}")


def _vit_name(name: str) -> tuple[str, int | None]:
    """Return our name of a tensor of transformers' ViT; its pooling and classifier are unused."""
    bare = name.removeprefix("vit.")
    if bare.startswith(("pooler.", "classifier.")):
        return f"{_DROPPED}{name}", None
    for number, part in enumerate(("query", "key", "value")):
        before, found, leaf = bare.partition(f".attention.attention.{part}.")
        if found:
            block = before.replace("encoder.layer.", "blocks.")
            return f"vision_model.{block}.attn.qkv.{leaf}", number
    for theirs, ours in _VIT.items():
        bare = bare.replace(theirs, ours)
    return f"vision_model.{bare}", None


ENCODERS = {
    "siglip": Kind(
        lambda config, _: VisionModel(config),
        ("siglip", "siglip_vision_model"),
        _siglip_name,
    ),
    "vit": Kind(lambda config, _: ClassTokenVision(config), ("vit",), _vit_name),
    "codes": Kind(_codes),
}
