"""Map tensor names of other programs to ours.

Janus: our names are the published ones. Transformers' port has other names, and other shapes of two
tensors: SigLIP's query, key and value are separate, and its position table has no batch dimension.
Autoencoder: our names are diffusers'. The original files, such as sdxl_vae.safetensors, have
others.
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
    """Return the published name of a tensor, and its part where parts are joined.

    Args:
        name: A name of transformers' port; a published name is returned as it is.

    Returns:
        The name, and 0, 1 or 2 for a separate query, key or value, else None.
    """
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    name = _HIDDEN.sub(lambda match: f"layers.{2 * int(match[1]) + 2}.", name)
    part = _QKV.search(name)
    if part is None:
        return name, None
    return _QKV.sub("attn.qkv.", name), "qkv".index(part[1])


_ORIGINAL = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=coder\.)down\.(\d+)\.block\.", r"down_blocks.\1.resnets."),
        (r"(?<=coder\.)down\.(\d+)\.downsample\.", r"down_blocks.\1.downsamplers.0."),
        (r"(?<=coder\.)mid\.block_1\.", "mid_block.resnets.0."),
        (r"(?<=coder\.)mid\.block_2\.", "mid_block.resnets.1."),
        (r"(?<=coder\.)mid\.attn_1\.norm\.", "mid_block.attentions.0.group_norm."),
        (r"(?<=coder\.)mid\.attn_1\.([qkv])\.", r"mid_block.attentions.0.to_\1."),
        (r"(?<=coder\.)mid\.attn_1\.proj_out\.", "mid_block.attentions.0.to_out.0."),
        (r"(?<=coder\.)norm_out\.", "conv_norm_out."),
        (r"\.nin_shortcut\.", ".conv_shortcut."),
    )
)
_UP = re.compile(r"(?<=coder\.)up\.(\d+)\.(block\.|upsample\.)")
_UP_PARTS = {"block.": "resnets.", "upsample.": "upsamplers.0."}


def original_autoencoder_name(name: str, levels: int) -> str:
    """Return the name that diffusers gives a tensor of an autoencoder in the original naming.

    Args:
        name: The original name; a name of diffusers is returned as it is.
        levels: Number of resolutions; the original decoder counts them from the other end.
    """
    for pattern, replacement in _ORIGINAL:
        name = pattern.sub(replacement, name)
    return _UP.sub(
        lambda match: f"up_blocks.{levels - 1 - int(match[1])}.{_UP_PARTS[match[2]]}", name
    )
