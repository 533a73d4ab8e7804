"""What a training starts from: a checkpoint, or a language model and a vision encoder, or nothing.

Source: the papers start from DeepSeek-LLM, SigLIP-L/16 at 384 px and LlamaGen's tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from janus_edge.model.codebook import VQTokenizer
from janus_edge.model.config import JanusConfig
from janus_edge.model.encoders import ENCODERS
from janus_edge.model.files import CheckpointError, read_object, read_text
from janus_edge.model.janus import Janus
from janus_edge.model.janusflow import JanusFlow
from janus_edge.model.matching import find_weights
from janus_edge.model.published import is_tied
from janus_edge.model.weights import Checkpoint, Model, fill, load_checkpoint
from janus_edge.runtime.errors import OptionError
from janus_edge.train.initial import initialise, initialise_flow, start_codes
from janus_edge.train.recipe import Recipe
from janus_edge.train.text import tokenizer_of


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Folders that a model starts from. What none of them gives starts untrained.

    Attributes:
        checkpoint: A whole Janus or JanusFlow.
        language: A Llama-type language model with its tokenizer, or a checkpoint that has one.
        vision: A vision encoder of the recipe's kind, such as SigLIP.
        codec: A checkpoint whose VQ tokenizer, or autoencoder, is used.
        vae: The autoencoder of a JanusFlow ``checkpoint``, its folder or weights; None for ``vae``
            in it. It is published apart.
    """

    checkpoint: Path | None = None
    language: Path | None = None
    vision: Path | None = None
    codec: Path | None = None
    vae: Path | None = None


def started(recipe: Recipe, sources: Sources, texts: Iterable[str]) -> Checkpoint:
    """Return what a training starts from.

    Args:
        recipe: The recipe.
        sources: What to start from.
        texts: Texts that a tokenizer is made from, if none comes with a source.

    Raises:
        CheckpointError: A folder cannot be read or does not fit.
        OptionError: A checkpoint's sizes are not the recipe's, nothing gives a codec, or a source
            stands beside a checkpoint, which has all.
    """
    if sources.checkpoint is not None:
        for name in ("language", "vision", "codec"):
            if getattr(sources, name) is not None:
                raise OptionError(f"--start gives the whole model; leave --{name} out")
        checkpoint = from_checkpoint(recipe, sources.checkpoint, sources.vae)
        return replace(checkpoint, sampling=checkpoint.sampling | recipe.sampling)
    if sources.vae is not None:
        raise OptionError("--vae is of --start's JanusFlow; without --start give --codec")
    if sources.codec is None and not (recipe.pretraining and recipe.pretraining.codec):
        raise OptionError(
            "nothing to start from: give --start CHECKPOINT, or --codec CHECKPOINT, whose VQ "
            "tokenizer or autoencoder encodes the images that are drawn"
        )
    model = untrained(recipe)
    if sources.codec is not None:
        _fill_codec(model, recipe, sources.codec)
    if sources.language is None:
        size = recipe.config.language.vocab_size
        tokenizer = tokenizer_of(texts, size, recipe.template).to_str()
    else:
        tokenizer = fill_language(model, sources.language)
    if sources.vision is not None:
        fill_vision(model, sources.vision)
    return Checkpoint(
        model=model, tokenizer_json=tokenizer, prompt=recipe.prompt, sampling=recipe.settings
    )


def _fill_codec(model: Model, recipe: Recipe, folder: Path) -> None:
    """Give a model the VQ tokenizer or the autoencoder of a checkpoint."""
    name = "gen_vision_model" if isinstance(model, Janus) else "vae"
    codec = getattr(load_checkpoint(folder).model, name, None)
    ours = getattr(model, name)
    try:
        ours.load_state_dict({} if codec is None else codec.state_dict())
    except RuntimeError:
        raise OptionError(f"{folder}: its {name} does not fit recipe {recipe.name}") from None
    if isinstance(ours, VQTokenizer):
        for key in ("plain", "recoloured"):
            if getattr(codec, key) != getattr(ours, key):
                raise OptionError(
                    f"{folder}: does not fit recipe {recipe.name}: codebook.{key} is "
                    f"{getattr(codec, key)}, the recipe's {getattr(ours, key)}; change the "
                    "recipe's [model]"
                )
    if isinstance(model, Janus):
        start_codes(model)


def from_checkpoint(recipe: Recipe, folder: Path, vae: Path | None = None) -> Checkpoint:
    """Return a checkpoint to train on.

    Args:
        recipe: The recipe.
        folder: A published checkpoint, or one that this package has written.
        vae: A JanusFlow's autoencoder; None for ``vae`` in the folder.

    Raises:
        CheckpointError: The folder is no checkpoint or is damaged.
        OptionError: Its sizes are not the recipe's.
    """
    checkpoint = load_checkpoint(folder, vae=vae)
    model = checkpoint.model
    found, wanted = model.config.to_dict(), recipe.config.to_dict()
    if isinstance(model, JanusFlow) and recipe.vae_config is not None:
        found["vae"], wanted["vae"] = asdict(model.vae_config), asdict(recipe.vae_config)
    for section in wanted:
        if found.get(section) != wanted[section]:
            wrong = _difference(found.get(section), wanted[section])
            raise OptionError(
                f"{folder}: does not fit recipe {recipe.name}: {section}.{wrong}; change the "
                "recipe's [model], or take the recipe of this checkpoint"
            )
    return checkpoint


def prompt_note(recipe: Recipe, checkpoint: Checkpoint) -> str | None:
    """Return a line about what a recipe changes in the prompts of a checkpoint; None if nothing."""
    if checkpoint.prompt is not None:
        for name, value in checkpoint.prompt.items():
            if recipe.prompt.get(name) != value:
                return (
                    f'{name} of the checkpoint is "{value}", the recipe\'s '
                    f'"{recipe.prompt[name]}": the recipe\'s is trained; to keep the other, change '
                    "the recipe's [prompt]"
                )
        return None
    role, tokenizer = recipe.template.user_role, Tokenizer.from_str(checkpoint.tokenizer_json)
    if role.startswith("<|") and tokenizer.token_to_id(role) is None:
        return (
            f"user_role {role} of the recipe is no token of the checkpoint, as in Janus-1.3B, "
            'whose user_role is "User": check the recipe\'s [prompt]'
        )
    return None


def _difference(found: object, wanted: object) -> str:
    """Return the first key of a section that differs, with both values."""
    if not isinstance(found, dict) or not isinstance(wanted, dict):
        return f"is {found}, not {wanted}"
    key = next(key for key in wanted | found if found.get(key) != wanted.get(key))
    return f"{key} is {found.get(key)}, the recipe's {wanted.get(key)}"


def untrained(recipe: Recipe) -> Model:
    """Return the recipe's model with initial weights, which follow from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    config = recipe.config
    if isinstance(config, JanusConfig):
        model = Janus(config)
        initialise(model)
        return model
    assert recipe.vae_config is not None
    flow = JanusFlow(config, recipe.vae_config)
    initialise_flow(flow)
    return flow


def on_meta(recipe: Recipe) -> Model:
    """Return the recipe's model on the meta device."""
    config, vae = recipe.config, recipe.vae_config
    with torch.device("meta"):
        if isinstance(config, JanusConfig):
            return Janus(config)
        assert vae is not None
        return JanusFlow(config, vae)


def fill_language(model: Model, folder: Path) -> str:
    """Give a model the weights of a Llama-type language model; return its tokenizer.json.

    Args:
        model: The model, changed in place.
        folder: Folder with config.json, tokenizer.json and the weights, as transformers writes it;
            or a checkpoint of this family, whose language model is taken.

    Raises:
        CheckpointError: Tensors are missing, or sizes are not the model's.
    """
    raw = read_object(folder / "config.json")
    if "model" in raw or raw.get("model_type") == "multi_modality":
        found = load_checkpoint(folder)
        try:
            model.language_model.load_state_dict(found.model.language_model.state_dict())
        except RuntimeError:
            raise CheckpointError(f"{folder}: its language model has other sizes") from None
        return found.tokenizer_json
    if raw.get("model_type") != "llama":
        raise CheckpointError(
            f"{folder}: model_type is {raw.get('model_type')}; give a language model of type llama"
        )
    holder = nn.ModuleDict({"language_model": model.language_model})
    _fill(holder, folder, lambda name: (f"language_model.{name}", None), tied=is_tied(raw))
    return read_text(folder / "tokenizer.json")


def fill_vision(model: Model, folder: Path) -> None:
    """Give a model the weights of a vision encoder; a text encoder beside it is left out.

    Args:
        model: The model, changed in place.
        folder: Folder of a vision encoder of the model's kind, as transformers writes it.

    Raises:
        CheckpointError: It is of another kind, tensors are missing, or sizes are not the model's.
    """
    encoder = model.vision_model if isinstance(model, Janus) else model.vision_und_enc_model
    name = model.config.vision.encoder
    kind, found = ENCODERS[name], read_object(folder / "config.json").get("model_type")
    if kind.rename is None or found not in kind.model_types:
        wanted = " or ".join(kind.model_types) or "none: this kind takes no --vision"
        raise CheckpointError(
            f"{folder}: model_type is {found}; encoder {name} of the recipe takes {wanted}"
        )
    _fill(nn.ModuleDict({"vision_model": encoder}), folder, kind.rename)


def _fill(
    holder: nn.Module,
    folder: Path,
    rename: Callable[[str], tuple[str, int | None]],
    *,
    tied: bool = False,
) -> None:
    """Set all parameters of a module to what a folder holds."""
    weights = find_weights(holder, folder, tied=tied, rename=rename, against="the recipe's [model]")
    fill(holder, weights)  # type: ignore[arg-type]
