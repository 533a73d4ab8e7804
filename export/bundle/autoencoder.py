"""A JanusFlow's autoencoder is published apart: the usual one, and whether another fits."""

from __future__ import annotations

from typing import Any

import torch

from janus_edge.model.config import JanusConfig, JanusFlowConfig
from janus_edge.model.janusflow import JanusFlow
from janus_edge.model.vae import read_vae_config
from janus_edge.runtime.errors import OptionError

VAE_REPO = "stabilityai/sdxl-vae"  # the one that the published code draws with

Config = JanusConfig | JanusFlowConfig
UNREADABLE = (
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
)  # what a config of another kind raises


def check_fit(config: JanusFlowConfig, raw: dict[str, Any]) -> None:
    """Refuse diffusers' config.json of an autoencoder that is not of this JanusFlow's latents.

    Raises one of UNREADABLE.
    """
    with torch.device("meta"):
        JanusFlow(config, read_vae_config(raw))


def check_wanted(config: Config, vae: object, where: str) -> None:
    """Refuse an autoencoder for a model that brings its own. Raises OptionError."""
    if vae is not None and not isinstance(config, JanusFlowConfig):
        raise OptionError(f"{vae}: {where} is no JanusFlow and has its own; leave out --vae")
