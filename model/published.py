"""Map configs of published checkpoints to ours: DeepSeek's config.json and transformers'.

A published config names its parts ("siglip_large_patch16_384"). Tables here say what each name
means; unknown names are refused. Nothing is imported or evaluated by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

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
from janus_edge.model.numbers import shown

_Sizes = TypeVar("_Sizes")
QUANTIZED = (
    "weights that another program has quantized; export the original checkpoint, in bfloat16, "
    "float16 or float32, with --quantize"
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
# Defaults of transformers' LlamaConfig. In a config inside another one, transformers omits values
# that equal them: the published Janus-Pro-7B states neither its width nor its heads.
_LLAMA: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
# The only supported values: features of Llama that no Janus uses and our decoder does not have.
_PLAIN = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "partial_rotary_factor": 1.0,
    "sliding_window": None,
}
_LANGUAGES = ("language_config", "text_config")
_ROPES = ("rope_scaling", "rope_parameters")  # until transformers 5, and since


def read_config(raw: dict[str, Any]) -> JanusConfig | JanusFlowConfig:
    """Return the config in a checkpoint's config.json: DeepSeek's, transformers' or ours.

    Raises:
        ValueError: A key is unknown, missing or of an unsupported value; the error names it.
    """
    if not isinstance(raw, dict):
        raise ValueError("it holds no object")
    kind = "model" if "model" in raw else str(raw.get("model_type"))
    if kind not in _FORMATS:
        known = ", ".join(sorted(_FORMATS))
        raise ValueError(f'model_type is "{kind}", not one of: {known}')
    for part in _with_language(raw):
        if part.get("quantization_config") is not None:
            method = part["quantization_config"]
            method = method.get("quant_method") if isinstance(method, dict) else method
            raise ValueError(f"quantization_config {shown(method)}: {QUANTIZED}")
    return _FORMATS[kind](raw)


def is_tied(raw: dict[str, Any]) -> bool:
    """Return True if the token table serves as text head where the weights hold no head."""
    return any(part.get("tie_word_embeddings") is True for part in _with_language(raw))


def _with_language(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the config, and its language model's if it is an object."""
    return [raw, *(raw[key] for key in _LANGUAGES if isinstance(raw.get(key), dict))]


def _ours(raw: dict[str, Any]) -> JanusConfig | JanusFlowConfig:
    _section(raw, "model")
    kind = JanusFlowConfig if "flow" in raw["model"] else JanusConfig
    return kind.from_dict(raw["model"])


def _deepseek(raw: dict[str, Any]) -> JanusConfig | JanusFlowConfig:
    """Return a config in DeepSeek's format."""
    if "vision_gen_enc_config" in raw:
        return _deepseek_flow(raw)
    language = language_config(_section(raw, "language_config"))
    siglip = _siglip(raw, "vision_config")
    tokenizer = _section(raw, "gen_vision_config")
    cls = _known("gen_vision_config.cls", tokenizer.get("cls", "VQ-16"), TOKENIZERS)
    codes = _section(tokenizer, "params", {})
    head = _params(raw, "gen_head_config", "vision_head")
    size = codes.get("image_token_size", 16384)
    _equal("gen_head_config", head, {"image_token_size": size, "n_embed": language.hidden_size})
    return JanusConfig(
        language=language,
        vision=siglip,
        codebook=_made(
            "gen_vision_config", CodebookConfig, size=size, dim=codes.get("n_embed", 8), **cls
        ),
        gen_head=_made(
            "gen_head_config",
            ImageHeadConfig,
            image_token_embed=head.get("image_token_embed", language.hidden_size),
        ),
        aligner=_aligner(raw, "aligner_config", language.hidden_size),
        gen_aligner=_aligner(raw, "gen_aligner_config", language.hidden_size),
    )


def _deepseek_flow(raw: dict[str, Any]) -> JanusFlowConfig:
    language = language_config(_section(raw, "language_config"))
    encoder = _params(raw, "vision_gen_enc_config", "ShallowUViTEncoder")
    decoder = _params(raw, "vision_gen_dec_config", "ShallowUViTDecoder")
    plain = {"use_bias": True, "use_mid_block": True, "elementwise_affine": True}
    width = {"hidden_size": language.hidden_size}
    _equal("vision_gen_enc_config", encoder, plain | width | {"padding": 0})
    levels = encoder.get("block_out_channels", [768])
    if not isinstance(levels, list) or len(levels) != 1:
        raise ValueError(
            f"vision_gen_enc_config: block_out_channels is {shown(levels)}, not one number"
        )
    (channels,) = levels
    patch, latent = encoder.get("kernel_size", 2), encoder.get("input_channels", 4)
    config = _made(
        "vision_gen_enc_config",
        FlowConfig,
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
    _equal(section, vision, {"select_layer": -1, "select_feature": "same", "select_layers": None})
    _equal(section, vision, {"pixel_mean": None, "pixel_std": None})
    name = vision.get("model_name", "siglip_large_patch16_384")
    siglip = _known(f"{section}.params.model_name", name, SIGLIP)
    _equal(section, vision, {"image_size": siglip.image_size})
    return siglip


def _aligner(raw: dict[str, Any], section: str, width: int) -> AlignerConfig:
    params = _params(raw, section, "MlpProjector")
    _equal(section, params, {"n_embed": width})
    depth = {"mlp_gelu": params.get("depth", 2), "linear": 1}  # the published ones, if it says none
    kind = params.get("projector_type", "mlp_gelu")
    known = _known(f"{section}.params.projector_type", kind, depth)
    return _made(section, AlignerConfig, depth=known)


def _transformers(raw: dict[str, Any]) -> JanusConfig:
    """Return a config in transformers' format."""
    language = language_config(_section(raw, "text_config", {}))
    vision, book = _section(raw, "vision_config", {}), _section(raw, "vq_config", {})
    _equal("vision_config", vision, {"use_qk_norm": False, "attention_bias": True})
    _equal("vision_config", vision, {"hidden_act": "gelu", "num_channels": 3})
    _equal("vq_config", book, {"double_latent": False, "hidden_act": "gelu", "out_channels": 3})
    ladder = book.get("channel_multiplier", [1, 1, 2, 2, 4])
    ladder = tuple(ladder) if isinstance(ladder, list) else ladder
    return JanusConfig(
        language=language,
        vision=_made(
            "vision_config",
            VisionConfig,
            image_size=vision.get("image_size", 384),
            patch_size=vision.get("patch_size", 16),
            width=vision.get("hidden_size", 1024),
            layers=vision.get("num_hidden_layers", 24),
            heads=vision.get("num_attention_heads", 16),
            mlp_ratio=vision.get("mlp_ratio", 4.0),
            layer_norm_eps=vision.get("layer_norm_eps", 1e-6),
        ),
        codebook=_made(
            "vq_config",
            CodebookConfig,
            size=book.get("num_embeddings", 16384),
            dim=book.get("embed_dim", 8),
            z_channels=book.get("latent_channels", 256),
            channels=book.get("base_channels", 128),
            encoder_ch_mult=ladder,
            decoder_ch_mult=ladder,
            num_res_blocks=book.get("num_res_blocks", 2),
        ),
        gen_head=_made(
            "vq_config", ImageHeadConfig, image_token_embed=book.get("projection_dim", 2048)
        ),
        aligner=_made("vision_config", AlignerConfig, depth=vision.get("depth", 2)),
        gen_aligner=_made("vq_config", AlignerConfig, depth=book.get("num_hidden_layers", 2)),
    )


_FORMATS: dict[str, Callable[[dict[str, Any]], JanusConfig | JanusFlowConfig]] = {
    "model": _ours,
    "multi_modality": _deepseek,
    "janus": _transformers,
}


def language_config(raw: dict[str, Any]) -> LanguageConfig:
    """Return the sizes in a Llama's config.

    Raises:
        ValueError: It has features that our decoder does not have.
    """
    _equal("the language model", raw, _PLAIN)
    found = {key: raw.get(key, value) for key, value in _LLAMA.items()} | _rope(raw)
    groups = raw.get("num_key_value_heads")
    config = _made(
        "the language model",
        LanguageConfig,
        **found,
        num_key_value_heads=found["num_attention_heads"] if groups is None else groups,
    )
    if raw.get("head_dim") not in (None, config.head_dim):
        raise ValueError(f"head_dim is {shown(raw['head_dim'])}, not {config.head_dim}")
    return config


def _rope(raw: dict[str, Any]) -> dict[str, Any]:
    """Return ``rope_theta`` if the rotation's own section says it; refuse scaled rotations."""
    found: dict[str, Any] = {}
    for section in _ROPES:
        rope = raw.get(section)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise ValueError(f"{section} is {shown(rope)}, not an object")
        plain = {"rope_type": "default", "type": "default", "partial_rotary_factor": 1.0}
        _equal(section, rope, plain)
        if any(isinstance(value, dict) for value in rope.values()):
            raise ValueError(f"{section} is {shown(rope)}; only one for all layers is supported")
        found |= {key: value for key, value in rope.items() if key == "rope_theta"}
    return found


def _made(section: str, kind: type[_Sizes], **values: Any) -> _Sizes:
    """Return a part's sizes; name the section that states them in errors."""
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{section}: {error}") from None


def _section(raw: dict[str, Any], name: str, default: Any = None) -> dict[str, Any]:
    """Return a section of a config, or ``default``; raise ValueError if there is neither."""
    section = raw.get(name, default)
    if section is None:
        raise ValueError(f"no section {name}")
    if not isinstance(section, dict):
        raise ValueError(f"{name} is {shown(section)}, not an object")
    return section


def _params(raw: dict[str, Any], section: str, cls: str) -> dict[str, Any]:
    part = _section(raw, section)
    _equal(section, part, {"cls": cls})
    return _section(part, "params", {})


def _known(key: str, value: Any, table: dict[str, Any]) -> Any:
    if not isinstance(value, str) or value not in table:
        raise ValueError(f"{key} is {shown(value)}, not one of: {', '.join(table)}")
    return table[value]


def _equal(where: str, raw: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise ValueError if a key has another value than the wanted one; a missing key is right."""
    for key, value in wanted.items():
        found = raw.get(key, value)
        if found != value or isinstance(found, bool) != isinstance(value, bool):
            raise ValueError(f"{where}: {key} is {shown(found)}; only {shown(value)} is supported")
