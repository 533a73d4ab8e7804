"""Tensor names of transformers' Janus port to the published ones, which are ours.

Two tensors also change shape: the port keeps SigLIP's query, key and value apart, and its position
table without a batch dimension.
"""

from __future__ import annotations

import re

_TOWER = "vision_model.vision_tower."
_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^model\.vision_model\.embeddings\.patch_embedding\.", f"{_TOWER}patch_embed.proj."),
        (r"^model\.vision_model\.embeddings\.position_embedding\.weight$", f"{_TOWER}pos_embed"),
        (r"^model\.vision_model\.encoder\.layers\.(\d+)\.", rf"{_TOWER}blocks.\1."),
        (r"^model\.vision_model\.post_layernorm\.", f"{_TOWER}norm."),
        (r"(blocks\.\d+\.)layer_norm([12])\.", r"\1norm\2."),
        (r"(blocks\.\d+\.)self_attn\.projection_layer\.", r"\1attn.proj."),
        (r"(blocks\.\d+\.)self_attn\.([qkv])_proj\.", r"\1attn.qkv.\2."),
        (r"^model\.vqmodel\.", "gen_vision_model."),
        (r"(?<=coder\.)(?:down|up)\.(\d+)\.block\.", r"conv_blocks.\1.res."),
        (r"(?<=coder\.)(?:down|up)\.", "conv_blocks."),
        (r"(?<=\.mid\.)block_1\.", "0."),
        (r"(?<=\.mid\.)attn_1\.", "1."),
        (r"(?<=\.mid\.)block_2\.", "2."),
        (r"^model\.generation_embeddings\.", "gen_embed."),
        (r"^model\.generation_aligner\.", "gen_aligner."),
        (r"^model\.generation_head\.proj_out\.", "gen_head.output_mlp_projector."),
        (r"^model\.generation_head\.", "gen_head."),
        (r"^model\.aligner\.", "aligner."),
        (r"(?<=aligner\.)fc1\.", "layers.0."),
        (r"^model\.language_model\.", "language_model.model."),
        (r"^lm_head\.", "language_model.lm_head."),
    )
)
_HIDDEN = re.compile(r"(?<=aligner\.)hidden_layers\.(\d+)\.")
_QKV = re.compile(r"attn\.qkv\.([qkv])\.")


def published_name(name: str) -> tuple[str, int | None]:
    """The published name of a tensor, and its part (0, 1, 2: q, k, v) where parts are joined.

    A name that is already the published one is returned as it is.
    """
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    name = _HIDDEN.sub(lambda match: f"layers.{2 * int(match[1]) + 2}.", name)
    part = _QKV.search(name)
    if part is None:
        return name, None
    return _QKV.sub("attn.qkv.", name), "qkv".index(part[1])
