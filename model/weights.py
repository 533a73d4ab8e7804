"""Checkpoint folders: config.json, model.safetensors with published names, tokenizer.json.

``sample_codes.npy``, where there is one, holds the codes of some pictures of the kind that the
model draws; the exporter fits the preview to them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from janus_edge.model.config import JanusConfig
from janus_edge.model.janus import Janus
from janus_edge.runtime.files import whole

# In published files and in none of our modules: SigLIP's pooling head, the tokenizer's usage count.
UNUSED = ("vision_model.vision_tower.attn_pool.", "gen_vision_model.quantize.codebook_used")


class CheckpointError(Exception):
    """A checkpoint that is missing, damaged or does not fit its config. One line, with the path."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model with all that is needed to talk to it."""

    model: Janus
    tokenizer_json: str
    prompt: dict[str, str]  # user_role, assistant_role, system_prompt
    sampling: dict[str, float]  # guidance_scale, temperature: the settings to draw with
    sample_codes: np.ndarray | None = None  # (P, N)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder; weights become float32. Raises CheckpointError."""
    try:
        raw: dict[str, Any] = json.loads((folder / "config.json").read_text())
        prompt, sampling = raw.pop("prompt"), raw.pop("sampling")
        config = JanusConfig.from_dict(raw.pop("model"))
        tokenizer_json = (folder / "tokenizer.json").read_text()
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: {error.strerror}; is this a checkpoint?"
        ) from None
    except (ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'}: not a checkpoint's config: {error}"
        ) from None
    model = Janus(config)
    load_weights(model, folder / "model.safetensors")
    return Checkpoint(
        model=model.eval(),
        tokenizer_json=tokenizer_json,
        prompt=prompt,
        sampling=sampling,
        sample_codes=_load_samples(folder / "sample_codes.npy", config),
    )


def load_weights(model: Janus, path: Path) -> None:
    """Copy tensors into the model one at a time. Raises CheckpointError naming all that misfit."""
    try:
        with safe_open(path, "pt") as file:
            parameters = dict(model.named_parameters()) | dict(model.named_buffers())
            names = {name for name in file.keys() if not name.startswith(UNUSED)}  # noqa: SIM118
            wrong = [f"missing {name}" for name in sorted(set(parameters) - names)]
            wrong += [f"unexpected {name}" for name in sorted(names - set(parameters))]
            for name in sorted(names & set(parameters)):
                shape, expected = file.get_slice(name).get_shape(), list(parameters[name].shape)
                if shape != expected:
                    wrong.append(f"{name} is {shape}, not {expected}")
                    continue
                with torch.no_grad():
                    parameters[name].copy_(file.get_tensor(name))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; is this a checkpoint?") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged: {error}; copy it again") from None
    if wrong:
        raise CheckpointError(f"{path}: does not fit config.json: {'; '.join(wrong)}")


def save_checkpoint(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype) -> None:
    """Write a checkpoint folder, weights rounded to ``dtype``; each file appears whole or not."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model": checkpoint.model.config.to_dict(),
        "prompt": checkpoint.prompt,
        "sampling": checkpoint.sampling,
    }
    _write(folder / "config.json", json.dumps(config, indent=1, ensure_ascii=False) + "\n")
    _write(folder / "tokenizer.json", checkpoint.tokenizer_json)
    tensors = {
        name: tensor.detach().to(dtype).contiguous()
        for name, tensor in checkpoint.model.state_dict().items()
    }
    with whole(folder / "model.safetensors") as part:
        save_file(tensors, part)
    if checkpoint.sample_codes is not None:
        with whole(folder / "sample_codes.npy") as part, part.open("wb") as file:
            np.save(file, checkpoint.sample_codes)


def _load_samples(path: Path, config: JanusConfig) -> np.ndarray | None:
    if not path.exists():
        return None
    try:
        codes_PN = np.load(path, allow_pickle=False).astype(np.int64)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: not an array: {error}; leave it out") from None
    if codes_PN.shape[1:] != (config.num_codes,) or codes_PN.max() >= config.codebook.size:
        raise CheckpointError(f"{path}: not codes of this model's pictures; leave it out")
    return codes_PN


def _write(path: Path, text: str) -> None:
    with whole(path) as part:
        part.write_text(text)
