"""The published checkpoints' configs, for tools/make_checkpoint.py: rewritten from their facts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from janus_edge.model.vae import VAEConfig

SDXL = VAEConfig(  # stabilityai/sdxl-vae
    latent_channels=4,
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    norm_num_groups=32,
    scaling_factor=0.13025,
)


@dataclass(frozen=True, kw_only=True)
class Published:
    """What differs between the published checkpoints."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    template: str
    file: str  # the name of its weights
    parts: Callable[[int], dict[str, Any]]  # config sections beside the language model's, by width


def _part(kind: str, cls: str, **params: Any) -> dict[str, Any]:
    return {"cls": cls, "model_type": kind, "params": params}


def _siglip(kind: str) -> dict[str, Any]:
    return _part(
        kind,
        "CLIPVisionTower",
        image_size=384,
        model_name="siglip_large_patch16_384",
        select_feature="same",
        select_layer=-1,
    )


def _codes(width: int) -> dict[str, Any]:
    def aligner(kind: str, input_dim: int) -> dict[str, Any]:
        params = {"depth": 2, "input_dim": input_dim, "n_embed": width}
        return _part(kind, "MlpProjector", **params, projector_type="mlp_gelu")

    return {
        "vision_config": _siglip("vision"),
        "aligner_config": aligner("aligner", 1024),
        "gen_vision_config": _part("gen_vision", "VQ-16", image_token_size=16384, n_embed=8),
        "gen_aligner_config": aligner("gen_aligner", 8),
        "gen_head_config": _part(
            "gen_head",
            "vision_head",
            image_token_embed=width,
            image_token_size=16384,
            n_embed=width,
        ),
    }


def _flow(width: int) -> dict[str, Any]:
    shared = {
        "block_out_channels": [768],
        "dropout": 0.0,
        "elementwise_affine": True,
        "hidden_size": width,
        "layers_in_middle": 2,
        "norm_eps": 1e-6,
        "use_bias": True,
        "use_mid_block": True,
    }
    encoder = shared | {"input_channels": 4, "kernel_size": 2, "padding": 0, "stride": 2}
    decoder = shared | {"in_channels": 768, "out_channels": 4, "upsamples": 1}
    return {
        "vision_und_enc_config": _siglip("vision_und_enc"),
        "vision_gen_enc_config": _part("vision_gen_enc", "ShallowUViTEncoder", **encoder),
        "vision_gen_dec_config": _part("vision_gen_dec", "ShallowUViTDecoder", **decoder),
    }


_1B = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
PUBLISHED = {
    "janus-1.3b": Published(**_1B, template="janus", file="model.safetensors", parts=_codes),
    "janus-pro-1b": Published(**_1B, template="janus-pro", file="pytorch_model.bin", parts=_codes),
    "janus-pro-7b": Published(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=30,
        num_attention_heads=32,
        template="janus-pro",
        file="pytorch_model.bin",
        parts=_codes,
    ),
    "janusflow-1.3b": Published(**_1B, template="janus", file="model.safetensors", parts=_flow),
}


def published_config(name: str) -> dict[str, Any]:
    """The config.json of a published checkpoint, rewritten from its facts."""
    shape = PUBLISHED[name]
    return {
        "model_type": "multi_modality",
        "architectures": ["MultiModalityCausalLM"],
        "torch_dtype": "bfloat16",
        **shape.parts(shape.hidden_size),
        "language_config": {
            "model_type": "llama",
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.intermediate_size,
            "num_hidden_layers": shape.num_hidden_layers,
            "num_attention_heads": shape.num_attention_heads,
            "num_key_value_heads": shape.num_attention_heads,
            "vocab_size": 102400,
            "max_position_embeddings": 16384,
            "torch_dtype": "bfloat16",
        },
    }
