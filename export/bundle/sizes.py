"""The sizes in the manifest, for each family."""

from __future__ import annotations

from typing import Any

from janus_edge.model.janus import Janus
from janus_edge.model.janusflow import JanusFlow
from janus_edge.model.weights import Model
from janus_edge.runtime.sizes import CodeSizes, FlowSizes


def sizes_of(model: Model, max_length: int) -> CodeSizes | FlowSizes:
    """Return the sizes that the runtime needs, with KV caches of ``max_length`` positions."""
    language, vision = model.config.language, model.config.vision
    shared: dict[str, Any] = {
        "hidden_size": language.hidden_size,
        "vocab_size": language.vocab_size,
        "num_layers": language.num_hidden_layers,
        "num_kv_heads": language.num_key_value_heads,
        "head_dim": language.head_dim,
        "norm_epsilon": language.rms_norm_eps,
        "max_length": max_length,
        "image_size": vision.image_size,
        "num_image_tokens": vision.num_patches,
    }
    if isinstance(model, Janus):
        config = model.config
        return CodeSizes(**shared, code_grid=config.code_grid, codebook_size=config.codebook.size)
    assert isinstance(model, JanusFlow)
    return FlowSizes(
        **shared,
        latent_channels=model.config.flow.latent_channels,
        latent_size=model.latent_size,
        latent_grid=model.latent_grid,
    )
