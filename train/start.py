"""What a training starts from: a checkpoint, or a language model and a vision encoder, or nothing.

Source: the papers start from DeepSeek-LLM, SigLIP-L/16 at 384 px and LlamaGen's tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from janus_edge.model.codebook import VQTokenizer
from janus_edge.model.config import JanusConfig, JanusFlowConfig
from janus_edge.model.janus import Janus
from janus_edge.model.janusflow import JanusFlow
from janus_edge.model.weights import Checkpoint, Model, load_checkpoint
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.prompt import PromptEncoder
from janus_edge.train.given import fill_language, fill_vision
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
        sampling = checkpoint.sampling | recipe.sampling
        return _checked(replace(checkpoint, sampling=sampling), recipe)
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
    return _checked(
        Checkpoint(
            model=model, tokenizer_json=tokenizer, prompt=recipe.prompt, sampling=recipe.settings
        ),
        recipe,
    )


def _checked(checkpoint: Checkpoint, recipe: Recipe) -> Checkpoint:
    """Return a checkpoint; raise OptionError if the model has no rows for all tokens."""
    largest = PromptEncoder.load(checkpoint.tokenizer_json, recipe.template).largest_id
    size = recipe.config.language.vocab_size
    if largest >= size:
        raise OptionError(
            f"recipe {recipe.name}: vocab_size is {size}, and the tokenizer has a token {largest}; "
            "give a larger one, or resize the checkpoint's embeddings"
        )
    return checkpoint


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
    flow = _flow(recipe)
    initialise_flow(flow)
    return flow


def _flow(recipe: Recipe) -> JanusFlow:
    """Return a JanusFlow; raise OptionError if the parts of the recipe do not fit together."""
    assert isinstance(recipe.config, JanusFlowConfig) and recipe.vae_config is not None
    try:
        return JanusFlow(recipe.config, recipe.vae_config)
    except ValueError as error:
        raise OptionError(f"recipe {recipe.name}: {error}; change its [model] or [vae]") from None


def on_meta(recipe: Recipe) -> Model:
    """Return the recipe's model on the meta device."""
    with torch.device("meta"):
        return Janus(recipe.config) if isinstance(recipe.config, JanusConfig) else _flow(recipe)
