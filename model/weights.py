"""Checkpoint folders: config.json, weights with published names, tokenizer.json.

Published folders load as they are, in DeepSeek's naming or transformers'. Ours add to config.json
how to prompt and sample. They also hold ``samples.npy``: codes or latents of some images of the
kind that the model draws, to which the exporter fits the preview. A JanusFlow's autoencoder is
published separately, as a folder of diffusers; here it lies in ``vae`` in the checkpoint, or where
the caller says.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from janus_edge.model.config import JanusConfig, JanusFlowConfig
from janus_edge.model.encoders import check_encoder
from janus_edge.model.extras import load_samples, read_prompt, read_sampling
from janus_edge.model.files import (
    CheckpointError,
    checkpoint_folder,
    read_object,
    read_text,
    snapshot_of,
)
from janus_edge.model.janus import Janus
from janus_edge.model.janusflow import JanusFlow
from janus_edge.model.matching import VAE_PREFIX, Weights, find_weights
from janus_edge.model.names import original_autoencoder_name
from janus_edge.model.published import is_tied, read_config
from janus_edge.model.vae import (
    SDXL,
    VAEConfig,
    diffusers_name,
    read_vae_config,
    vae_config_json,
)
from janus_edge.runtime.files import atomic_write

VAE_FOLDER = "vae"

Model = Janus | JanusFlow
_FAMILIES: dict[type, str] = {JanusConfig: "janus", JanusFlowConfig: "janusflow"}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model with all that is needed to use it.

    Attributes:
        model: The model with its weights. If ``weights`` is set, the model is on the meta device
            and ``loaded`` gives it the weights of a part at a time.
        tokenizer_json: Content of tokenizer.json.
        prompt: The texts user_role, assistant_role and system_prompt; None to choose by tokenizer.
        sampling: Settings to draw with, as in the manifest.
        samples: Codes (P, N) or latents (P, Z, H, W) of P images, to fit the preview to.
        weights: Where the weights are if they were not read.
    """

    model: Model
    tokenizer_json: str
    prompt: dict[str, str] | None
    sampling: dict[str, Any]
    samples: np.ndarray | None = None
    weights: Weights | None = None


def load_checkpoint(folder: Path, *, lazy: bool = False, vae: Path | None = None) -> Checkpoint:
    """Return the checkpoint in a folder; weights become fp32.

    Args:
        folder: The folder, or a repository's folder in huggingface_hub's cache.
        lazy: Check every name and shape, but leave the weights in their files.
        vae: Folder of a JanusFlow's autoencoder, or its weights in one file; None for ``vae`` in
            the checkpoint.

    Raises:
        CheckpointError: The folder is no checkpoint, is damaged or does not fit its config.
    """
    folder = checkpoint_folder(folder)
    path = folder / "config.json"
    with one_line(path, "is this a checkpoint?"):
        raw = read_object(path)
        config = read_config(raw)
        family = _FAMILIES[type(config)]
        check_encoder(config)
        prompt, sampling = read_prompt(raw), read_sampling(raw, family)
    path = folder / "tokenizer.json"
    with one_line(path, "is this a checkpoint?"):
        tokenizer_json = read_text(path)
    model, beside = empty_model(config, vae or folder / VAE_FOLDER)
    weights = find_weights(model, folder, tied=is_tied(raw))
    weights = dataclasses.replace(weights, beside=beside)
    if not lazy:
        fill(model, weights)
    return Checkpoint(
        model=model,
        tokenizer_json=tokenizer_json,
        prompt=prompt,
        sampling=sampling,
        samples=load_samples(folder / "samples.npy", model),
        weights=weights if lazy else None,
    )


@contextmanager
def one_line(path: Path, advice: str) -> Iterator[None]:
    """Turn what is wrong with a small file into a CheckpointError that names it."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; {advice}") from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        what = "config" if path.name == "config.json" else "text"
        raise CheckpointError(f"{path}: not a {what} that can be read: {error}") from None


def to_half(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with all weights rounded to fp16; the given one is not changed."""
    if checkpoint.weights is not None:
        return dataclasses.replace(checkpoint, weights=checkpoint.weights.to_half())
    model = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    return dataclasses.replace(checkpoint, model=model)


def family_of(model: Model) -> str:
    """Return the name of the model's family in manifests."""
    return type(model).__name__.lower()


def empty_model(config: JanusConfig | JanusFlowConfig, vae: Path) -> tuple[Model, Weights | None]:
    """Return a model on the meta device, and the weights of the part that is published separately.

    Args:
        config: Sizes of the model.
        vae: Folder or weight file of a JanusFlow's autoencoder; unused for other models.

    Returns:
        The model; the autoencoder's weights for a JanusFlow, else None.

    Raises:
        CheckpointError: The autoencoder does not fit.
    """
    with torch.device("meta"):
        if isinstance(config, JanusConfig):
            return Janus(config).eval(), None
        vae = snapshot_of(vae)
        sizes, said_by = _vae_config(vae)
        with one_line(vae / "config.json" if said_by == "config.json" else vae, ""):
            model = JanusFlow(config, sizes).eval()
    levels = len(sizes.block_out_channels)
    return model, find_weights(
        model,
        vae,
        prefix=VAE_PREFIX,
        rename=lambda name: (diffusers_name(original_autoencoder_name(name, levels)), None),
        against=said_by,
    )


def _vae_config(vae: Path) -> tuple[VAEConfig, str]:
    """Return the sizes of an autoencoder, and what states them.

    That is its folder's config.json. For a file of weights without one beside it, SDXL's sizes
    hold.
    """
    path = (vae.parent if vae.is_file() else vae) / "config.json"
    if vae.is_file():
        with suppress(OSError, ValueError, CheckpointError):
            if "_class_name" in read_object(path):
                return read_vae_config(read_object(path)), "config.json"
        return SDXL, "SDXL's autoencoder; give its folder, with config.json, to --vae"
    inside = vae / VAE_FOLDER
    advice = (
        f"its autoencoder is in {inside}: give that to --vae"
        if (inside / "config.json").exists()
        else "a JanusFlow draws with the SDXL autoencoder: put its folder there, or name it, or a "
        "file of its weights, with --vae"
    )
    with one_line(path, advice):
        return read_vae_config(read_object(path)), "config.json"


def fill(model: Model, weights: Weights, prefix: str = "") -> None:
    """Set a model's parameters to their values, fp32, one at a time.

    Args:
        model: The model, changed in place.
        weights: Where the values are.
        prefix: Start of the names of the parameters to set; empty for all.

    Raises:
        CheckpointError: A file is damaged.
    """
    for name, tensor in weights.read(prefix):
        owner, _, leaf = name.rpartition(".")
        parameter = model.get_parameter(name)
        value = tensor.reshape(parameter.shape)
        if parameter.is_meta:
            value = value.to(torch.float32, copy=True)  # a view would keep the file mapped
            setattr(model.get_submodule(owner), leaf, nn.Parameter(value))
        else:
            with torch.no_grad():
                parameter.copy_(value)


@contextmanager
def loaded(checkpoint: Checkpoint, *prefixes: str) -> Iterator[None]:
    """Hold the parameters with these prefixes in memory inside the block.

    They return to the meta device after it, but for those that a block around this one holds. A
    checkpoint that was not loaded lazily is not changed.

    Args:
        checkpoint: The checkpoint, loaded lazily or not.
        *prefixes: Starts of parameter names.

    Raises:
        CheckpointError: A file is damaged.
    """
    model, weights = checkpoint.model, checkpoint.weights
    if weights is None:
        yield
        return
    absent = [
        name
        for name, parameter in model.named_parameters()
        if parameter.is_meta and name.startswith(prefixes)
    ]
    try:
        for prefix in prefixes:
            if any(name.startswith(prefix) for name in absent):
                fill(model, weights, prefix)
        yield
    finally:
        for name in absent:
            owner, _, leaf = name.rpartition(".")
            empty = nn.Parameter(model.get_parameter(name).to("meta"))
            setattr(model.get_submodule(owner), leaf, empty)


def save_checkpoint(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype) -> None:
    """Write a checkpoint folder; each file appears complete or not at all.

    Args:
        checkpoint: The checkpoint, not loaded lazily.
        folder: Where to write; created if missing.
        dtype: Dtype of the written weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = checkpoint.model
    config: dict[str, Any] = {"model": model.config.to_dict()}
    if checkpoint.prompt is not None:
        config["prompt"] = checkpoint.prompt
    config["sampling"] = checkpoint.sampling
    _write(folder / "config.json", _json(config))
    _write(folder / "tokenizer.json", checkpoint.tokenizer_json)
    tensors = {
        name: tensor.detach().to(dtype).contiguous() for name, tensor in model.state_dict().items()
    }
    beside = {
        n.removeprefix(VAE_PREFIX): tensors.pop(n)
        for n in list(tensors)
        if n.startswith(VAE_PREFIX)
    }
    with atomic_write(folder / "model.safetensors") as part:
        part.write_bytes(save(tensors))
    if isinstance(model, JanusFlow):
        (folder / VAE_FOLDER).mkdir(exist_ok=True)
        _write(folder / VAE_FOLDER / "config.json", _json(vae_config_json(model.vae_config)))
        with atomic_write(folder / VAE_FOLDER / "diffusion_pytorch_model.safetensors") as part:
            part.write_bytes(save(beside))
    if checkpoint.samples is not None:
        with atomic_write(folder / "samples.npy") as part, part.open("wb") as file:
            np.save(file, checkpoint.samples)


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
