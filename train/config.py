"""Sizes of the small models that ship with the package."""

from __future__ import annotations

from janus_edge.model.config import (
    CodebookConfig,
    FlowConfig,
    ImageHeadConfig,
    JanusConfig,
    JanusFlowConfig,
    LanguageConfig,
    VisionConfig,
)

TINY = JanusConfig(
    language=LanguageConfig(
        vocab_size=456,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
    ),
    vision=VisionConfig(image_size=64, patch_size=8, width=128, layers=4, heads=4),
    codebook=CodebookConfig(
        size=512,
        dim=8,
        z_channels=64,
        channels=32,
        encoder_ch_mult=(1, 1, 2, 4),
        decoder_ch_mult=(1, 1, 2, 4),
        num_res_blocks=1,
        num_groups=8,
    ),
    gen_head=ImageHeadConfig(image_token_embed=256),
)

TINY_FLOW = JanusFlowConfig(
    language=TINY.language,
    vision=TINY.vision,
    flow=FlowConfig(channels=128, layers_in_middle=4),
)
