from __future__ import annotations

import pytest

from janus_edge.model.config import JanusConfig
from janus_edge.model.weights import Checkpoint


def test_round_trip(checkpoint: Checkpoint) -> None:
    config = checkpoint.model.config
    assert JanusConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("language", "hidden_sise", 1, "unknown keys: hidden_sise"),
        ("language", "num_attention_heads", 5, "does not split into 5"),
        ("vision", "patch_size", 7, "no multiple of 7"),
        ("codebook", "num_groups", 3, "no multiple of 3"),
    ],
)
def test_wrong_values_are_named(
    checkpoint: Checkpoint, section: str, key: str, value: int, message: str
) -> None:
    raw = checkpoint.model.config.to_dict()
    raw[section][key] = value
    with pytest.raises(ValueError, match=message):
        JanusConfig.from_dict(raw)


def test_a_missing_section_is_named(checkpoint: Checkpoint) -> None:
    raw = checkpoint.model.config.to_dict()
    del raw["vision"]
    with pytest.raises(ValueError, match="vision"):
        JanusConfig.from_dict(raw)
