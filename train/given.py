"""Parts that other folders give a model: a Llama-type language model, a vision encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from janus_edge.model.config import LanguageConfig, VisionConfig
from janus_edge.model.encoders import ENCODERS
from janus_edge.model.files import CheckpointError, read_object, read_text
from janus_edge.model.janus import Janus
from janus_edge.model.matching import find_weights
from janus_edge.model.published import is_tied, language_config
from janus_edge.model.weights import Model, fill, load_checkpoint, one_line

# Of a language model, what the shapes of its weights do not show.
_HIDDEN = ("num_attention_heads", "num_key_value_heads", "rms_norm_eps", "rope_theta")


def fill_language(model: Model, folder: Path) -> str:
    """Give a model the weights of a Llama-type language model; return its tokenizer.json.

    Args:
        model: The model, changed in place.
        folder: Folder with config.json, tokenizer.json and the weights, as transformers writes it;
            or a checkpoint of this family, whose language model is taken.

    Raises:
        CheckpointError: Tensors are missing, or sizes are not the model's.
    """
    raw = _config_of(folder)
    if "model" in raw or raw.get("model_type") in ("multi_modality", "janus"):
        found = load_checkpoint(folder)
        _check_same(folder, found.model.config.language, model.config.language)
        try:
            model.language_model.load_state_dict(found.model.language_model.state_dict())
        except RuntimeError:
            raise CheckpointError(f"{folder}: its language model has other sizes") from None
        return found.tokenizer_json
    if raw.get("model_type") != "llama":
        raise CheckpointError(
            f"{folder}: model_type is {raw.get('model_type')}; give a language model of type llama"
        )
    with one_line(folder / "config.json", "is this a language model?"):
        config = language_config(raw)
    _check_same(folder, config, model.config.language)
    holder = nn.ModuleDict({"language_model": model.language_model})
    _fill(holder, folder, lambda name: (f"language_model.{name}", None), tied=is_tied(raw))
    with one_line(folder / "tokenizer.json", "is this a language model?"):
        return read_text(folder / "tokenizer.json")


def _config_of(folder: Path) -> dict[str, Any]:
    """Return a folder's config.json; raise CheckpointError if it cannot be read."""
    with one_line(folder / "config.json", "give a folder as transformers writes it"):
        return read_object(folder / "config.json")


def _check_same(folder: Path, found: LanguageConfig, wanted: LanguageConfig) -> None:
    """Raise CheckpointError if a language model computes otherwise than the recipe's."""
    for name in _HIDDEN:
        ours, theirs = getattr(wanted, name), getattr(found, name)
        if ours != theirs:
            raise CheckpointError(
                f"{folder}: {name} is {theirs}, the recipe's {ours}; change the recipe's [model]"
            )


def _check_vision(folder: Path, raw: dict[str, Any], wanted: VisionConfig) -> None:
    """Raise CheckpointError if a vision encoder computes otherwise than the recipe's.

    transformers leaves out what has its default value. SigLIP's approximate GELU is taken for the
    exact one, as in Janus.
    """
    section = raw.get("vision_config", raw)
    epsilon = 1e-12 if wanted.encoder == "vit" else 1e-6
    for name, theirs, ours in (
        ("num_attention_heads", section.get("num_attention_heads", 12), wanted.heads),
        ("layer_norm_eps", section.get("layer_norm_eps", epsilon), wanted.layer_norm_eps),
    ):
        if theirs != ours:
            raise CheckpointError(
                f"{folder}: {name} is {theirs}, the recipe's {ours}; change the recipe's [model]"
            )
    if (kind := section.get("hidden_act", "gelu")) not in ("gelu", "gelu_pytorch_tanh"):
        raise CheckpointError(f"{folder}: hidden_act is {kind}; only gelu is supported")


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
    raw = _config_of(folder)
    kind, found = ENCODERS[name], raw.get("model_type")
    if kind.rename is None or found not in kind.model_types:
        wanted = " or ".join(kind.model_types) or "none: this kind takes no --vision"
        raise CheckpointError(
            f"{folder}: model_type is {found}; encoder {name} of the recipe takes {wanted}"
        )
    _check_vision(folder, raw, model.config.vision)
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
