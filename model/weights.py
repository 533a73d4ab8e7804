"""Checkpoint folders: config.json, weights with published names, tokenizer.json.

Published folders load as they are, in DeepSeek's naming or transformers'; ours add to config.json
how to prompt and sample, and ``samples.npy``, codes or latents of some pictures of the kind that
the model draws, to which the exporter fits the preview. A JanusFlow's autoencoder is published
apart, as a folder of diffusers; here it lies in ``vae`` in the checkpoint, or where one says.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from janus_edge.model.config import JanusConfig, JanusFlowConfig
from janus_edge.model.janus import Janus
from janus_edge.model.janusflow import JanusFlow
from janus_edge.model.names import published_name
from janus_edge.model.published import is_tied, read_config
from janus_edge.model.tensors import CheckpointError, Shape, TensorFiles, open_tensors
from janus_edge.model.vae import diffusers_name, read_vae_config, vae_config_json
from janus_edge.runtime.files import whole
from janus_edge.runtime.manifest import DEFAULTS

# In published files and in none of our modules: SigLIP's pooling head, the tokenizer's usage count.
UNUSED = (
    "vision_model.vision_tower.attn_pool.",
    "vision_und_enc_model.vision_tower.attn_pool.",
    "gen_vision_model.quantize.codebook_used",
)
VAE_FOLDER = "vae"
_VAE = "vae."  # the prefix of its parameters

Model = Janus | JanusFlow
Rename = Callable[[str], tuple[str, int | None]]  # a tensor's name: the parameter's, and which part

_WHOLE = -1  # in place of a part's number
_HEAD, _EMBED = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where each parameter of a model comes from: the tensors that make it up, in order.

    beside: those of the part that is published apart. halves: whether values are rounded to half
    precision as they are read.
    """

    files: TensorFiles
    sources: dict[str, tuple[str, ...]]
    beside: Weights | None = None
    halves: bool = False

    def read(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Parameters whose names start with a prefix, one at a time, as stored."""
        found: dict[str, dict[str, Tensor]] = {}
        owners: dict[str, list[str]] = {}  # several where a tensor is shared
        for name, of in self.sources.items():
            if name.startswith(prefix):
                for source in of:
                    owners.setdefault(source, []).append(name)
        for source, tensor in self.files.read(list(owners)):
            for name in owners[source]:
                found.setdefault(name, {})[source] = tensor
                if len(found[name]) == len(self.sources[name]):
                    parts = found.pop(name)
                    joined = [parts[of] for of in self.sources[name]]
                    whole_tensor = joined[0] if len(joined) == 1 else torch.cat(joined)
                    yield name, whole_tensor.half() if self.halves else whole_tensor
        if self.beside is not None:
            yield from self.beside.read(prefix)

    def in_halves(self) -> Weights:
        """The same, rounded to half precision."""
        beside = self.beside and self.beside.in_halves()
        return dataclasses.replace(self, beside=beside, halves=True)


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

    lazy: check every name and shape, but leave the weights in their files. vae: the folder of a
    JanusFlow's autoencoder; None: ``vae`` in the checkpoint.
    """
    try:
        raw: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = read_config(raw)
        tokenizer_json = (folder / "tokenizer.json").read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: {error.strerror}; is this a checkpoint?"
        ) from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'}: not a config that can be read: {error}"
        ) from None
    model, beside = empty_model(config, vae or folder / VAE_FOLDER)
    weights = find_weights(model, folder, tied=is_tied(raw))
    weights = dataclasses.replace(weights, beside=beside)
    if not lazy:
        fill(model, weights)
    return Checkpoint(
        model=model,
        tokenizer_json=tokenizer_json,
        prompt=raw.get("prompt"),
        sampling=raw.get("sampling", DEFAULTS[family_of(model)].model_dump()),
        samples=_load_samples(folder / "samples.npy", model),
        weights=weights if lazy else None,
    )


def in_halves(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with all weights rounded to half precision; the given one stays as it is."""
    if checkpoint.weights is not None:
        return dataclasses.replace(checkpoint, weights=checkpoint.weights.in_halves())
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

    vae: the folder of that part, of a JanusFlow. Raises CheckpointError if it does not fit.
    """
    with torch.device("meta"):
        if isinstance(config, JanusConfig):
            return Janus(config).eval(), None
        path = vae / "config.json"
        try:
            model = JanusFlow(
                config, read_vae_config(json.loads(path.read_text(encoding="utf-8")))
            ).eval()
        except OSError as error:
            raise CheckpointError(
                f"{path}: {error.strerror}; a JanusFlow draws with the SDXL autoencoder: put its "
                "folder there, or name it with --vae"
            ) from None
        except (ValueError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{path}: not a config that can be read: {error}") from None
    return model, find_weights(model, vae, prefix=_VAE, rename=lambda n: (diffusers_name(n), None))


def find_weights(
    model: Model,
    path: Path,
    *,
    tied: bool = False,
    prefix: str = "",
    rename: Rename = published_name,
) -> Weights:
    """Match a folder's (or file's) tensors to a model's parameters.

    tied: where there is no text head, it is the token table. prefix: of the parameters that are
    sought, all but the autoencoder's if it is empty. rename: the files' names to ours without the
    prefix. Raises CheckpointError naming every tensor that is missing, unexpected or of another
    shape.
    """
    files = open_tensors(path)
    wanted = {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if name.startswith(_VAE) == (prefix == _VAE)
    }
    parts: dict[str, dict[int, str]] = {}
    for source in files.shapes:
        name, part = rename(source)
        name = prefix + name
        if not name.startswith(UNUSED):
            parts.setdefault(name, {})[_WHOLE if part is None else part] = source
    if tied and _HEAD not in parts and _EMBED in parts:
        parts[_HEAD] = parts[_EMBED]
    wrong = [f"missing {name}" for name in sorted(set(wanted) - set(parts))]
    wrong += [f"unexpected {source}" for name in sorted(set(parts) - set(wanted))
              for source in parts[name].values()]  # fmt: skip
    for name in sorted(set(parts) & set(wanted)):
        wrong += _misfit(name, parts[name], files.shapes, wanted[name])
    if wrong:
        raise CheckpointError(f"{files.first}: does not fit config.json: {'; '.join(wrong)}")
    sources = {name: tuple(parts[name][i] for i in sorted(parts[name])) for name in wanted}
    return Weights(files=files, sources=sources)


def _misfit(name: str, parts: dict[int, str], shapes: dict[str, Shape], wanted: Shape) -> list[str]:
    """What is wrong with a parameter's parts."""
    if set(parts) not in ({_WHOLE}, {0, 1, 2}):
        return [f"missing parts of {name}: only {', '.join(parts.values())}"]
    whole_shape = (wanted[0] // len(parts), *wanted[1:])
    right = {whole_shape, (*whole_shape, 1, 1)}  # the latter: a layer once a 1x1 convolution
    if wanted[0] == 1:
        right.add(whole_shape[1:])
    return [
        f"{source} is {list(shapes[source])}, not {list(whole_shape)}"
        for source in parts.values()
        if shapes[source] not in right
    ]


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
    beside = {n.removeprefix(_VAE): tensors.pop(n) for n in list(tensors) if n.startswith(_VAE)}
    with whole(folder / "model.safetensors") as part:
        save_file(tensors, part)
    if isinstance(model, JanusFlow):
        (folder / VAE_FOLDER).mkdir(exist_ok=True)
        _write(folder / VAE_FOLDER / "config.json", _json(vae_config_json(model.vae_config)))
        with whole(folder / VAE_FOLDER / "diffusion_pytorch_model.safetensors") as part:
            save_file(beside, part)
    if checkpoint.samples is not None:
        with whole(folder / "samples.npy") as part, part.open("wb") as file:
            np.save(file, checkpoint.samples)


def _load_samples(path: Path, model: Model) -> np.ndarray | None:
    if not path.exists():
        return None
    try:
        samples = np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: not an array: {error}; leave it out") from None
    if isinstance(model, JanusFlow):
        size = model.latent_size
        fits = samples.shape[1:] == (model.config.flow.latent_channels, size, size)
        samples = samples.astype(np.float32)
    else:
        samples = samples.astype(np.int64)
        fits = samples.shape[1:] == (model.config.num_codes,)
        fits = fits and bool(samples.max() < model.config.codebook.size)
    if not fits:
        raise CheckpointError(f"{path}: not of this model's pictures; leave it out")
    return samples


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")
