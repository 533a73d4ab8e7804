"""Configs of published checkpoints to ours, by table: DeepSeek's config.json and transformers'.

A published config names its parts ("siglip_large_patch16_384"); what each name means stands here,
and a name that does not is refused. Nothing is imported or evaluated by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from janus_edge.model.config import (
    AlignerConfig,
    CodebookConfig,
    FlowConfig,
    ImageHeadConfig,
    JanusConfig,
    JanusFlowConfig,
    LanguageConfig,
    VisionConfig,
)

SIGLIP = {
    "siglip_large_patch16_384": VisionConfig(
        image_size=384, patch_size=16, width=1024, layers=24, heads=16
    ),
}
TOKENIZERS = {
    "VQ-16": {
        "z_channels": 256,
        "channels": 128,
        "encoder_ch_mult": (1, 1, 2, 2, 4),
        "decoder_ch_mult": (1, 1, 2, 2, 4),
    },
}
# Llama's own defaults, for what a language_config leaves out.
_LANGUAGE = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 2048}
# What must not be otherwise: features of Llama that no Janus uses and our decoder does not have.
_PLAIN = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}


def read_config(raw: dict[str, Any]) -> JanusConfig | JanusFlowConfig:
    """A checkpoint's config.json, in any of three formats. Raises ValueError naming the key."""
    kind = "model" if "model" in raw else str(raw.get("model_type"))
    if kind not in _FORMATS:
        known = ", ".join(sorted(_FORMATS))
        raise ValueError(f'model_type is "{kind}", not one of: {known}')
    return _FORMATS[kind](raw)


def _ours(raw: dict[str, Any]) -> JanusConfig | JanusFlowConfig:
    kind = JanusFlowConfig if "flow" in raw["model"] else JanusConfig
    return kind.from_dict(raw["model"])


def _deepseek(raw: dict[str, Any]) -> JanusConfig | JanusFlowConfig:
    if "vision_gen_enc_config" in raw:
        return _deepseek_flow(raw)
    language = _language(_section(raw, "language_config"))
    siglip = _siglip(raw, "vision_config")
    _section(raw, "gen_vision_config")
    cls = _known("gen_vision_config.cls", raw["gen_vision_config"].get("cls"), TOKENIZERS)
    codes = raw["gen_vision_config"].get("params", {})
    head = _params(raw, "gen_head_config", "vision_head")
    size = codes.get("image_token_size", 16384)
    if head.get("image_token_size", size) != size:
        raise ValueError(f"gen_head_config has {head['image_token_size']} codes, not {size}")
    return JanusConfig(
        language=language,
        vision=siglip,
        codebook=CodebookConfig(size=size, dim=codes.get("n_embed", 8), **cls),
        gen_head=ImageHeadConfig(image_token_embed=_number(head, "image_token_embed")),
        aligner=_aligner(raw, "aligner_config", language.hidden_size),
        gen_aligner=_aligner(raw, "gen_aligner_config", language.hidden_size),
    )


def _deepseek_flow(raw: dict[str, Any]) -> JanusFlowConfig:
    language = _language(_section(raw, "language_config"))
    encoder = _params(raw, "vision_gen_enc_config", "ShallowUViTEncoder")
    decoder = _params(raw, "vision_gen_dec_config", "ShallowUViTDecoder")
    plain = {"use_bias": True, "use_mid_block": True, "elementwise_affine": True}
    width = {"hidden_size": language.hidden_size}
    _equal("vision_gen_enc_config", encoder, plain | width | {"padding": 0})
    levels = encoder.get("block_out_channels", [768])
    if not isinstance(levels, list) or len(levels) != 1:
        raise ValueError(f"vision_gen_enc_config: block_out_channels is {levels}, not one number")
    (channels,) = levels
    patch, latent = encoder.get("kernel_size", 2), encoder.get("input_channels", 4)
    config = FlowConfig(
        channels=channels,
        latent_channels=latent,
        patch=patch,
        layers_in_middle=encoder.get("layers_in_middle", 2),
        norm_eps=encoder.get("norm_eps", 1e-6),
    )
    _equal("vision_gen_enc_config", encoder, {"stride": patch})
    same = {"in_channels": channels, "out_channels": latent, "block_out_channels": [channels]}
    same |= {"layers_in_middle": config.layers_in_middle, "norm_eps": config.norm_eps}
    _equal("vision_gen_dec_config", decoder, plain | width | same | {"upsamples": 1})
    return JanusFlowConfig(
        language=language, vision=_siglip(raw, "vision_und_enc_config"), flow=config
    )


def _siglip(raw: dict[str, Any], section: str) -> VisionConfig:
    vision = _params(raw, section, "CLIPVisionTower")
    _equal(section, vision, {"select_layer": -1, "select_feature": "same"})
    siglip = _known(f"{section}.params.model_name", vision.get("model_name"), SIGLIP)
    if vision.get("image_size", siglip.image_size) != siglip.image_size:
        raise ValueError(f"{section}.params.image_size is {vision['image_size']}")
    return siglip


def _aligner(raw: dict[str, Any], section: str, width: int) -> AlignerConfig:
    params = _params(raw, section, "MlpProjector")
    if params.get("n_embed", width) != width:
        raise ValueError(f"{section}.params.n_embed is {params['n_embed']}, not {width}")
    depth = {"mlp_gelu": params.get("depth", 1), "linear": 1}
    kind = params.get("projector_type")
    return AlignerConfig(depth=_known(f"{section}.params.projector_type", kind, depth))


def _transformers(raw: dict[str, Any]) -> JanusConfig:
    language = _language(_section(raw, "text_config"))
    vision, book = _section(raw, "vision_config"), _section(raw, "vq_config")
    _equal("vision_config", vision, {"use_qk_norm": False, "attention_bias": True})
    _equal("vision_config", vision, {"hidden_act": "gelu", "num_channels": 3})
    _equal("vq_config", book, {"double_latent": False, "hidden_act": "gelu", "out_channels": 3})
    ladder = tuple(book.get("channel_multiplier", (1, 1, 2, 2, 4)))
    return JanusConfig(
        language=language,
        vision=VisionConfig(
            image_size=vision.get("image_size", 384),
            patch_size=vision.get("patch_size", 16),
            width=vision.get("hidden_size", 1024),
            layers=vision.get("num_hidden_layers", 24),
            heads=vision.get("num_attention_heads", 16),
            mlp_ratio=vision.get("mlp_ratio", 4.0),
            layer_norm_eps=vision.get("layer_norm_eps", 1e-6),
        ),
        codebook=CodebookConfig(
            size=book.get("num_embeddings", 16384),
            dim=book.get("embed_dim", 8),
            z_channels=book.get("latent_channels", 256),
            channels=book.get("base_channels", 128),
            encoder_ch_mult=ladder,
            decoder_ch_mult=ladder,
            num_res_blocks=book.get("num_res_blocks", 2),
        ),
        gen_head=ImageHeadConfig(image_token_embed=book.get("projection_dim", 2048)),
        aligner=AlignerConfig(depth=vision.get("depth", 2)),
        gen_aligner=AlignerConfig(depth=book.get("num_hidden_layers", 2)),
    )


_FORMATS: dict[str, Callable[[dict[str, Any]], JanusConfig | JanusFlowConfig]] = {
    "model": _ours,
    "multi_modality": _deepseek,
    "janus": _transformers,
}


def _language(raw: dict[str, Any]) -> LanguageConfig:
    if raw.get("model_type", "llama") != "llama":
        raise ValueError(f'the language model is "{raw["model_type"]}", not "llama"')
    _equal("the language model", raw, _PLAIN)
    rope = raw.get("rope_parameters") or {}
    _equal("rope_parameters", rope, {"rope_type": "default"})
    heads, found = _number(raw, "num_attention_heads"), _LANGUAGE | raw | rope
    config = LanguageConfig(
        vocab_size=_number(raw, "vocab_size"),
        hidden_size=_number(raw, "hidden_size"),
        intermediate_size=_number(raw, "intermediate_size"),
        num_hidden_layers=_number(raw, "num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=raw.get("num_key_value_heads", heads),
        max_position_embeddings=found["max_position_embeddings"],
        rms_norm_eps=found["rms_norm_eps"],
        rope_theta=found["rope_theta"],
    )
    if raw.get("head_dim", config.head_dim) not in (None, config.head_dim):
        raise ValueError(f"head_dim is {raw['head_dim']}, not {config.head_dim}")
    return config


def _section(raw: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(raw.get(name), dict):
        raise ValueError(f"no section {name}")
    return raw[name]


def _params(raw: dict[str, Any], section: str, cls: str) -> dict[str, Any]:
    part = _section(raw, section)
    _equal(section, part, {"cls": cls})
    return _section(part, "params")


def _known(key: str, value: Any, table: dict[str, Any]) -> Any:
    if value not in table:
        raise ValueError(f'{key} is "{value}", not one of: {", ".join(table)}')
    return table[value]


def _equal(where: str, raw: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key, value in wanted.items():
        if raw.get(key, value) != value:
            raise ValueError(f'{where}: {key} is "{raw[key]}"; only "{value}" is supported')


def _number(raw: dict[str, Any], key: str) -> int:
    if not isinstance(raw.get(key), int):
        raise ValueError(f"no number {key}")
    return raw[key]
