"""Checkpoint folders: config.json, weights with published names, tokenizer.json.

Published folders load as they are, in DeepSeek's naming or transformers'; ours add to config.json
how to prompt and sample, and ``samples.npy``, codes or latents of some images of the kind that
the model draws, to which the exporter fits the preview. A JanusFlow's autoencoder is published
apart, as a folder of diffusers; here it lies in ``vae`` in the checkpoint, or where one says.
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
from pydantic import ValidationError
from safetensors.torch import save
from torch import nn

from janus_edge.model.config import JanusConfig, JanusFlowConfig
from janus_edge.model.files import (
    CheckpointError,
    check_regular,
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
from janus_edge.runtime.manifest import DEFAULTS
from janus_edge.runtime.prompt import PromptTemplate

VAE_FOLDER = "vae"

Model = Janus | JanusFlow
_FAMILIES: dict[type, str] = {JanusConfig: "janus", JanusFlowConfig: "janusflow"}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model with all that is needed to talk to it.

    model: with its weights; or, where ``weights`` is not None, on the meta device, to be given
    them a part at a time by ``loaded``.
    """

    model: Model
    tokenizer_json: str
    prompt: dict[str, str] | None  # user_role, assistant_role, system_prompt; None: by tokenizer
    sampling: dict[str, Any]  # the settings to draw with: the manifest's
    samples: np.ndarray | None = None  # codes (P, N) or latents (P, Z, H, W)
    weights: Weights | None = None


def load_checkpoint(folder: Path, *, lazy: bool = False, vae: Path | None = None) -> Checkpoint:
    """Read a checkpoint folder; weights become float32. Raises CheckpointError.

    folder: or a repository's folder in huggingface_hub's cache. lazy: check every name and shape,
    but leave the weights in their files. vae: the folder of a JanusFlow's autoencoder, or its
    weights in one file; None: ``vae`` in the checkpoint.
    """
    folder = checkpoint_folder(folder)
    path = folder / "config.json"
    with _one_line(path, "is this a checkpoint?"):
        raw = read_object(path)
        config = read_config(raw)
        family = _FAMILIES[type(config)]
        prompt, sampling = _prompt(raw), _sampling(raw, family)
    path = folder / "tokenizer.json"
    with _one_line(path, "is this a checkpoint?"):
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
        samples=_load_samples(folder / "samples.npy", model),
        weights=weights if lazy else None,
    )


def _prompt(raw: dict[str, Any]) -> dict[str, str] | None:
    """The roles that a config of ours says. Raises ValueError."""
    found, keys = raw.get("prompt"), {field.name for field in dataclasses.fields(PromptTemplate)}
    if found is None:
        return None
    if (
        not isinstance(found, dict)
        or set(found) != keys
        or any(not isinstance(value, str) for value in found.values())
    ):
        raise ValueError(f"prompt: give the texts {', '.join(sorted(keys))}, and nothing else")
    return found


def _sampling(raw: dict[str, Any], family: str) -> dict[str, Any]:
    """The settings that a config of ours says, else the family's. Raises ValueError."""
    found = raw.get("sampling")
    if found is None:
        return DEFAULTS[family].model_dump()
    try:
        type(DEFAULTS[family]).model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"sampling: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return dict(found)


@contextmanager
def _one_line(path: Path, advice: str) -> Iterator[None]:
    """What is wrong with a small file, as a CheckpointError that names it."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; {advice}") from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        what = "config" if path.name == "config.json" else "text"
        raise CheckpointError(f"{path}: not a {what} that can be read: {error}") from None


def to_half(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with all weights rounded to half precision; the given one stays as it is."""
    if checkpoint.weights is not None:
        return dataclasses.replace(checkpoint, weights=checkpoint.weights.to_half())
    model = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    return dataclasses.replace(checkpoint, model=model)


def family_of(model: Model) -> str:
    """The family's name in manifests."""
    return type(model).__name__.lower()


def empty_model(config: JanusConfig | JanusFlowConfig, vae: Path) -> tuple[Model, Weights | None]:
    """A model on the meta device, and where the part that is published apart comes from.

    vae: the folder of that part, of a JanusFlow, or a file of its weights. Raises CheckpointError
    if it does not fit.
    """
    with torch.device("meta"):
        if isinstance(config, JanusConfig):
            return Janus(config).eval(), None
        vae = snapshot_of(vae)
        sizes, said_by = _vae_config(vae)
        with _one_line(vae / "config.json" if said_by == "config.json" else vae, ""):
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
    """The sizes of an autoencoder, and what says them: its folder's config.json; for a file of
    weights without one beside it, what SDXL's has."""
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
    with _one_line(path, advice):
        return read_vae_config(read_object(path)), "config.json"


def fill(model: Model, weights: Weights, prefix: str = "") -> None:
    """Give a model's parameters their values, float32, one at a time. Raises CheckpointError."""
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
    """The parameters with these prefixes are in memory inside the block, if not everywhere."""
    model, weights = checkpoint.model, checkpoint.weights
    if weights is None:
        yield
        return
    try:
        for prefix in prefixes:
            fill(model, weights, prefix)
        yield
    finally:
        for name, parameter in list(model.named_parameters()):
            if name.startswith(prefixes):
                owner, _, leaf = name.rpartition(".")
                empty = nn.Parameter(parameter.to("meta"))
                setattr(model.get_submodule(owner), leaf, empty)


def save_checkpoint(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype) -> None:
    """Write a checkpoint folder, weights rounded to ``dtype``; each file appears whole or not."""
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


def _load_samples(path: Path, model: Model) -> np.ndarray | None:
    if not (path.exists() or path.is_symlink()):
        return None
    check_regular(path)
    try:
        samples = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise CheckpointError(f"{path}: not an array: {error}; leave it out") from None
    if isinstance(model, JanusFlow):
        size = model.latent_size
        fits = samples.shape[1:] == (model.config.flow.latent_channels, size, size)
        fits = fits and samples.size > 0 and samples.dtype.kind == "f"
        fits = fits and bool(np.isfinite(samples).all())
    else:
        fits = samples.shape[1:] == (model.config.num_codes,)
        fits = fits and samples.size > 0 and samples.dtype.kind in "iu"
        fits = fits and bool(samples.min() >= 0 and samples.max() < model.config.codebook.size)
    if not fits:
        raise CheckpointError(f"{path}: not of this model's images; leave it out")
    return np.array(samples, np.float32 if isinstance(model, JanusFlow) else np.int64)


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
