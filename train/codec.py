"""The codec of a model in training: it encodes the images that are drawn, and is never trained."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from janus_edge.data.source import Role
from janus_edge.model.config import JanusConfig
from janus_edge.model.janus import Janus
from janus_edge.model.weights import Checkpoint, Model
from janus_edge.runtime.notes import home_folder
from janus_edge.train.images import Encode, Encoded
from janus_edge.train.recipe import ROLES, Recipe
from janus_edge.train.start import Sources


def take_codec(model: Model, device: torch.device) -> tuple[Encode, nn.Module]:
    """Take the VQ tokenizer or the autoencoder out of a model: it is used and never trained.

    Returns:
        What encodes images, and the module itself, in fp32.
    """
    name = "gen_vision_model" if isinstance(model, Janus) else "vae"
    codec = getattr(model, name).to(device).eval().requires_grad_(False)
    setattr(model, name, None)

    def encode(pixels: Tensor) -> Tensor:
        pixels = pixels.to(device)
        if name == "vae":
            latent: Tensor = codec.to_latent(pixels)
            return latent.half()
        codes: Tensor = codec.encode(pixels)
        return codes.to(torch.int32)

    return encode, codec


def kept_codes(recipe: Recipe, dataset: Mapping[str, Role], codec: nn.Module) -> dict[str, Encoded]:
    """Return the files of codes or latents, one per role that draws.

    Args:
        recipe: The recipe.
        dataset: The data by role.
        codec: What encodes; other weights, or colours of plain backgrounds, have their own files.
    """
    shape, dtype = code_shape(recipe)
    weights = weights_digest(codec)
    plain = getattr(codec, "plain", ())  # colours that have codes of their own
    rule = f" {[plain, codec.recoloured]}" if plain else ""
    found = {}
    roles = {role for stage in recipe.stages for role in stage.roles if ROLES[role] == "draw"}
    for role in sorted(roles):
        shards = dataset[role].shards
        of = f"{shards.digest} {recipe.config.vision.image_size} {weights}{rule}"
        name = hashlib.sha256(of.encode()).hexdigest()[:32]
        path = home_folder() / "encoded" / f"{name}.bin"
        found[role] = Encoded(path, len(shards), shape, dtype)
    return found


def weights_digest(part: nn.Module) -> str:
    """Return a SHA-256 of a part's weights."""
    found = hashlib.sha256()
    for value in part.state_dict().values():
        found.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def start_digest(sources: Sources, checkpoint: Checkpoint) -> str:
    """Return a hash of what a run starts from and its states do not hold.

    Args:
        sources: Which sources were given.
        checkpoint: What they gave: the tokenizer, and the codec if a source has one.
    """
    given = [name for name, value in vars(sources).items() if value is not None]
    found = hashlib.sha256(f"{given} {checkpoint.tokenizer_json}".encode())
    if {"checkpoint", "codec"} & set(given):
        model = checkpoint.model
        codec = model.gen_vision_model if isinstance(model, Janus) else model.vae
        found.update(weights_digest(codec).encode())
    return found.hexdigest()[:32]


def code_shape(recipe: Recipe) -> tuple[tuple[int, ...], str]:
    """Return the shape and the dtype of an image's codes or latent."""
    config, vae = recipe.config, recipe.vae_config
    if isinstance(config, JanusConfig):
        return (config.num_codes,), "int32"
    assert vae is not None
    side = config.vision.image_size // vae.stride
    return (config.flow.latent_channels, side, side), "float16"
