"""What our checkpoints hold beyond published ones: prompt, sampling settings and samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from janus_edge.model.files import CheckpointError, check_regular
from janus_edge.model.janus import Janus
from janus_edge.model.janusflow import JanusFlow
from janus_edge.runtime.manifest import DEFAULTS, Prompt
from janus_edge.runtime.prompt import PromptTemplate


def read_prompt(raw: dict[str, Any]) -> dict[str, str] | None:
    """Return the prompt texts in a config.json of ours; None if it has none.

    Raises:
        ValueError: A text is missing, unknown or no text.
    """
    found, keys = raw.get("prompt"), {field.name for field in dataclasses.fields(PromptTemplate)}
    if found is None:
        return None
    if (
        not isinstance(found, dict)
        or set(found) != keys
        or any(not isinstance(value, str) for value in found.values())
    ):
        raise ValueError(f"prompt: give the texts {', '.join(sorted(keys))}, and nothing else")
    _validate(Prompt, found, "prompt")
    return found


def read_sampling(raw: dict[str, Any], family: str) -> dict[str, Any]:
    """Return the sampling settings in a config.json of ours; the family's defaults if it has none.

    Raises:
        ValueError: A setting is unknown or out of range.
    """
    found = raw.get("sampling")
    if found is None:
        return DEFAULTS[family].model_dump()
    _validate(type(DEFAULTS[family]), found, "sampling")
    return dict(found)


def _validate(kind: type[BaseModel], found: Any, name: str) -> None:
    """Raise ValueError for what a manifest would refuse, too, after hours of export."""
    try:
        kind.model_validate(found, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def load_samples(path: Path, model: Janus | JanusFlow) -> np.ndarray | None:
    """Return the codes (P, N) int64 or latents (P, Z, H, W) float32 in a file; None without a file.

    Args:
        path: The ``samples.npy`` of a checkpoint.
        model: The model whose images they are.

    Raises:
        CheckpointError: The file is no array, or does not fit the model.
    """
    if not (path.exists() or path.is_symlink()):
        return None
    check_regular(path)
    try:
        samples = np.lib.format.open_memmap(path, mode="r")  # no .npz and no pickle, as np.load
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
