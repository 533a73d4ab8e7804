"""Write a checkpoint as transformers reads it: ``JanusForConditionalGeneration`` and its processor.

The tensors' names are the inverse of ``model/names.py``. transformers knows only what is published:
SigLIP, a VQ tokenizer whose encoder and decoder have the same widths, and 32 groups in its norms.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor

from janus_edge.model.config import SIGLIP, JanusConfig, LanguageConfig
from janus_edge.model.janus import Janus
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.files import atomic_write
from janus_edge.runtime.prompt import TOKEN_STRINGS

_GROUPS = 32  # of the norms in transformers' VQ tokenizer
_TOWER, _THEIRS = r"^vision_model\.vision_tower\.", "model.vision_model."
_NAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"{_TOWER}patch_embed\.proj\.", f"{_THEIRS}embeddings.patch_embedding."),
        (rf"{_TOWER}pos_embed$", f"{_THEIRS}embeddings.position_embedding.weight"),
        (rf"{_TOWER}norm\.", f"{_THEIRS}post_layernorm."),
        (rf"{_TOWER}blocks\.(\d+)\.norm([12])\.", rf"{_THEIRS}encoder.layers.\1.layer_norm\2."),
        (
            rf"{_TOWER}blocks\.(\d+)\.attn\.proj\.",
            rf"{_THEIRS}encoder.layers.\1.self_attn.projection_layer.",
        ),
        (rf"{_TOWER}blocks\.(\d+)\.attn\.qkv\.", rf"{_THEIRS}encoder.layers.\1.self_attn.qkv."),
        (rf"{_TOWER}blocks\.(\d+)\.", rf"{_THEIRS}encoder.layers.\1."),
        (r"^gen_vision_model\.", "model.vqmodel."),
        (r"(?<=\.encoder\.)conv_blocks\.(\d+)\.res\.", r"down.\1.block."),
        (r"(?<=\.decoder\.)conv_blocks\.(\d+)\.res\.", r"up.\1.block."),
        (r"(?<=\.encoder\.)conv_blocks\.", "down."),
        (r"(?<=\.decoder\.)conv_blocks\.", "up."),
        (r"(?<=coder\.mid\.)0\.", "block_1."),
        (r"(?<=coder\.mid\.)1\.", "attn_1."),
        (r"(?<=coder\.mid\.)2\.", "block_2."),
        (r"^gen_embed\.", "model.generation_embeddings."),
        (r"^gen_aligner\.", "model.generation_aligner."),
        (r"^gen_head\.output_mlp_projector\.", "model.generation_head.proj_out."),
        (r"^gen_head\.", "model.generation_head."),
        (r"^aligner\.", "model.aligner."),
        (r"(?<=aligner\.)layers\.0\.", "fc1."),
        (r"^language_model\.model\.", "model.language_model."),
        (r"^language_model\.lm_head\.", "lm_head."),
    )
)
_HIDDEN = re.compile(r"(?<=aligner\.)layers\.(\d+)\.")
_TOKENS = {  # transformers' names of special tokens
    "bos_token": "bos",
    "eos_token": "eos",
    "pad_token": "pad",
    "image_token": "image_placeholder",
    "boi_token": "begin_of_image",
    "eoi_token": "end_of_image",
}


def save_for_transformers(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype) -> None:
    """Write a Janus as transformers reads it; each file appears complete or not at all.

    Args:
        checkpoint: The checkpoint, not loaded lazily.
        folder: Where to write; created if missing.
        dtype: Dtype of the written weights.

    Raises:
        OptionError: transformers has no such model.
        OSError: It cannot be written.
    """
    model = checkpoint.model
    if not isinstance(model, Janus):
        raise OptionError("transformers has no JanusFlow; convert takes a Janus")
    _check(model.config)
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer_json)
    files: dict[str, Any] = {
        "config.json": _config(model.config, tokenizer, dtype),
        "tokenizer_config.json": _tokenizer_config(),
        "preprocessor_config.json": _image_processor(model.config),
        "processor_config.json": {
            "processor_class": "JanusProcessor",
            "num_image_tokens": model.config.vision.num_patches,
        },
    }
    texts = {name: json.dumps(each, indent=1, ensure_ascii=False) for name, each in files.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (texts | {"tokenizer.json": checkpoint.tokenizer_json}).items():
        with atomic_write(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    tensors = {
        name: value.detach().to(dtype).contiguous()
        for ours, whole in model.state_dict().items()
        for name, value in _parts(ours, whole)
    }
    with atomic_write(folder / "model.safetensors") as part:
        part.write_bytes(save(tensors, metadata={"format": "pt"}))


def _check(config: JanusConfig) -> None:
    """Raise OptionError where transformers has no such sizes."""
    book = config.codebook
    faults = {
        f"a vision encoder of kind {config.vision.encoder}": config.vision.encoder != SIGLIP,
        f"{book.num_groups} groups in the VQ tokenizer's norms": book.num_groups != _GROUPS,
        "a VQ tokenizer whose encoder and decoder differ": (
            book.encoder_ch_mult != book.decoder_ch_mult
        ),
        "codes that are not normalised": not book.l2_norm,
        "codes of plain backgrounds": bool(book.plain),
        "an image head of another width than the language model": (
            config.gen_head.image_token_embed != config.language.hidden_size
        ),
    }
    for what, is_there in faults.items():
        if is_there:
            raise OptionError(f"transformers has no Janus with {what}; janus-edge export runs it")


def _parts(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield transformers' names of one of our tensors, with their values."""
    if name.endswith("vision_tower.pos_embed"):
        value = value[0]
    for pattern, replacement in _NAMES:
        name = pattern.sub(replacement, name)
    name = _HIDDEN.sub(lambda match: f"hidden_layers.{int(match[1]) // 2 - 1}.", name)
    if ".self_attn.qkv." in name:
        for part, rows in zip("qkv", value.chunk(3), strict=True):
            yield name.replace(".qkv.", f".{part}_proj."), rows
    else:
        yield name, value


def _config(config: JanusConfig, tokenizer: Tokenizer, dtype: torch.dtype) -> dict[str, Any]:
    """Return transformers' config.json."""
    ids = {name: tokenizer.token_to_id(text) for name, text in TOKEN_STRINGS.items()}
    if ids["image_placeholder"] is None:
        raise OptionError(
            f"the tokenizer has no token {TOKEN_STRINGS['image_placeholder']}, by which "
            "transformers finds images; add it to the checkpoint's tokenizer.json"
        )
    special = {f"{name}_token_id": ids[name] for name in ("bos", "eos", "pad")}
    return {
        "model_type": "janus",
        "architectures": ["JanusForConditionalGeneration"],
        "image_token_id": ids["image_placeholder"],
        "tie_word_embeddings": False,
        "dtype": str(dtype).removeprefix("torch."),
        "text_config": _text_config(config.language) | special,
        "vision_config": _vision_config(config),
        "vq_config": _vq_config(config),
    }


def _text_config(language: LanguageConfig) -> dict[str, Any]:
    """Return the section of the language model."""
    return {
        "model_type": "llama",
        "vocab_size": language.vocab_size,
        "hidden_size": language.hidden_size,
        "intermediate_size": language.intermediate_size,
        "num_hidden_layers": language.num_hidden_layers,
        "num_attention_heads": language.num_attention_heads,
        "num_key_value_heads": language.num_key_value_heads,
        "max_position_embeddings": language.max_position_embeddings,
        "rms_norm_eps": language.rms_norm_eps,
        "rope_parameters": {"rope_theta": language.rope_theta, "rope_type": "default"},
        "tie_word_embeddings": False,
    }


def _vision_config(config: JanusConfig) -> dict[str, Any]:
    """Return the section of the vision encoder and its aligner."""
    vision = config.vision
    return {
        "model_type": "janus_vision_model",
        "hidden_size": vision.width,
        "num_hidden_layers": vision.layers,
        "num_attention_heads": vision.heads,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "mlp_ratio": vision.mlp_ratio,
        "layer_norm_eps": vision.layer_norm_eps,
        "num_image_tokens": vision.num_patches,
        "depth": config.aligner.depth,
        "projection_dim": config.language.hidden_size,
    }


def _vq_config(config: JanusConfig) -> dict[str, Any]:
    """Return the section of the VQ tokenizer, the codes' aligner and the image head."""
    book = config.codebook
    return {
        "model_type": "janus_vqgan",
        "num_embeddings": book.size,
        "embed_dim": book.dim,
        "latent_channels": book.z_channels,
        "base_channels": book.channels,
        "channel_multiplier": list(book.encoder_ch_mult),
        "num_res_blocks": book.num_res_blocks,
        "num_patches": config.vision.image_size // book.stride,
        "num_hidden_layers": config.gen_aligner.depth,
        "projection_dim": config.language.hidden_size,
        "image_token_embed_dim": config.gen_head.image_token_embed,
    }


def _tokenizer_config() -> dict[str, Any]:
    """Return what transformers must know of the tokenizer beside tokenizer.json."""
    names = {theirs: TOKEN_STRINGS[ours] for theirs, ours in _TOKENS.items()}
    extra = ("image_token", "boi_token", "eoi_token")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {name: names.pop(name) for name in extra},
    } | names


def _image_processor(config: JanusConfig) -> dict[str, Any]:
    """Return how images become pixels in [-1, 1]."""
    side = config.vision.image_size
    return {
        "image_processor_type": "JanusImageProcessor",
        "processor_class": "JanusProcessor",
        "size": {"height": side, "width": side},
        "min_size": 14,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
