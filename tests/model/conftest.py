"""Small random models of transformers' Janus, and ours with the same weights."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from janus_edge.model.janus import Janus
from janus_edge.model.matching import find_weights
from janus_edge.model.published import read_config
from janus_edge.model.weights import fill

PLACEHOLDER, BOS, EOS, PAD, BEGIN = 7, 1, 2, 3, 5  # token ids of these models


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One model twice: transformers' and ours, loaded from the folder that theirs was saved to."""

    theirs: Any
    ours: Janus
    folder: Path


def small_config(**changes: Any) -> dict[str, Any]:
    """A transformers config. 32 channels are the fewest: their VQ model has 32 groups."""
    text = {
        "model_type": "llama",
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "vocab_size": 100,
        "max_position_embeddings": 256,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
    vision = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": 48,
        "mlp_ratio": 2.5,
        "num_image_tokens": 16,
        "depth": 2,
    }
    book = {
        "embed_dim": 8,
        "num_embeddings": 40,
        "latent_channels": 16,
        "base_channels": 32,
        "channel_multiplier": [1, 1, 2, 2],
        "num_res_blocks": 1,
        "projection_dim": 48,
        "image_token_embed_dim": 48,
        "num_patches": 4,
    }
    parts = {"text_config": text, "vision_config": vision, "vq_config": book}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        parts[section] = parts[section] | {name: value}
    return parts | {"image_token_id": PLACEHOLDER, "tie_word_embeddings": False}


def make_theirs(config: dict[str, Any], folder: Path) -> Any:
    """Random weights that are neither flat nor extreme, also saved by transformers."""
    from transformers import JanusConfig, JanusForConditionalGeneration

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = JanusForConditionalGeneration(JanusConfig(**config)).eval()
        for name, parameter in theirs.named_parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(std=1.5 * parameter[0].numel() ** -0.5)
            elif "norm" not in name:
                parameter.data.normal_(std=0.1)
        theirs.save_pretrained(folder)
    return theirs


def load_ours(folder: Path) -> Janus:
    """Our model from a folder that transformers wrote."""
    with torch.device("meta"):
        ours = Janus(
            read_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        ).eval()
    fill(ours, find_weights(ours, folder))
    return ours.requires_grad_(False)


def sparse_safetensors(path: Path, shapes: dict[str, list[int]]) -> None:
    """A bfloat16 file of these names and shapes that holds no data, and so takes no room."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)


@pytest.fixture(scope="session", params=["plain", "grouped", "deep"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Three shapes: plain; fewer key-value heads; deeper aligners and other sizes."""
    changes: dict[str, dict[str, Any]] = {
        "plain": {},
        "grouped": {
            "text_config__num_attention_heads": 6,
            "text_config__num_key_value_heads": 2,
            "text_config__rms_norm_eps": 1e-5,
        },
        "deep": {
            "vision_config__depth": 3,
            "vision_config__layer_norm_eps": 1e-5,
            "vq_config__num_hidden_layers": 1,
            "vq_config__num_res_blocks": 2,
        },
    }
    folder = tmp_path_factory.mktemp("theirs") / request.param
    theirs = make_theirs(small_config(**changes[request.param]), folder)
    return Pair(theirs=theirs, ours=load_ours(folder), folder=folder)
