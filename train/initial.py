"""Initial weights of what starts untrained."""

from __future__ import annotations

import torch
from torch import nn

from janus_edge.model.encoders import CodeVision
from janus_edge.model.janus import Janus
from janus_edge.model.janusflow import JanusFlow


def initialise(model: Janus) -> None:
    """Set scaled normal weights where nothing is pre-trained; residual branches start small."""
    depth = model.config.language.num_hidden_layers
    fresh = (model.language_model, model.aligner, model.gen_aligner, model.gen_head)
    for module in (m for part in fresh for m in part.modules()):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)
    for name, module in model.language_model.named_modules():
        if isinstance(module, nn.Linear) and name.endswith((".o_proj", ".down_proj")):
            nn.init.normal_(module.weight, std=(2 * depth * module.in_features) ** -0.5)
    start_codes(model)


@torch.no_grad()
def start_codes(model: Janus) -> None:
    """Set what follows from a codec: codes that look alike start alike, in the embedding."""
    codec = model.gen_vision_model
    model.gen_embed.weight.copy_(codec.quantize.table() * 2)
    if isinstance(model.vision_model, CodeVision):  # one encoder for both
        model.vision_model.load_state_dict(codec.state_dict(), strict=False)


def initialise_flow(model: JanusFlow) -> None:
    """Set scaled normal weights where no earlier training gives any; start velocities at zero."""
    fresh = (
        model.vision_und_enc_aligner,
        model.vision_gen_enc_model,
        model.vision_gen_enc_aligner,
        model.vision_gen_dec_aligner,
        model.vision_gen_dec_model,
    )
    for module in (m for part in fresh for m in part.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, module in model.named_modules():
        if name.endswith((".channelwise_linear_2", ".cond_embeds_mapper", ".unpatch_conv")):
            nn.init.zeros_(module.weight)
    nn.init.normal_(model.beg_of_und_embed, std=0.1)
