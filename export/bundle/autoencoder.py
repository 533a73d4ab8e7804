"""A JanusFlow's autoencoder, which is published apart: the usual one, and whether another fits."""

from __future__ import annotations

from typing import Any

import torch

from janus_edge.model.config import JanusConfig, JanusFlowConfig
from janus_edge.model.janusflow import JanusFlow
from janus_edge.model.vae import read_vae_config
from janus_edge.runtime.errors import OptionError

VAE_REPO = "stabilityai/sdxl-vae"  # which the published code draws with

Config = JanusConfig | JanusFlowConfig
UNREADABLE = (
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
)  # raised by a config of another kind


def check_fit(config: JanusFlowConfig, raw: dict[str, Any]) -> None:
    """Refuse an autoencoder that does not fit this JanusFlow's latents.

    Args:
        config: The JanusFlow's.
        raw: The config.json of the autoencoder, as diffusers writes it.

    Raises:
        Exception: One of UNREADABLE.
    """
    with torch.device("meta"):
        JanusFlow(config, read_vae_config(raw))


def check_wanted(config: Config, vae: object, where: str) -> None:
    """Refuse an autoencoder that is given for a model with its own.

    Args:
        config: The model's.
        vae: The autoencoder that is given, or None.
        where: What the error calls the model.

    Raises:
        OptionError: The model is no JanusFlow.
    """
    if vae is not None and not isinstance(config, JanusFlowConfig):
        raise OptionError(f"{vae}: {where} is no JanusFlow and has its own; leave out --vae")
