from __future__ import annotations

import json

import pytest

from janus_edge.model.config import JanusConfig
from janus_edge.model.weights import Checkpoint


def test_round_trip(checkpoint: Checkpoint) -> None:
    config = checkpoint.model.config
    assert JanusConfig.from_dict(config.to_dict()) == config


def test_a_round_trip_with_colours(checkpoint: Checkpoint) -> None:
    raw = json.loads(json.dumps(checkpoint.model.config.to_dict()))
    raw["codebook"] |= {"plain": [[255, 255, 255], [0, 0, 0]], "recoloured": True}
    config = JanusConfig.from_dict(raw)
    assert config.codebook.plain == ((255, 255, 255), (0, 0, 0)) and config.codebook.recoloured
    assert json.loads(json.dumps(config.to_dict())) == raw


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("language", "hidden_sise", 1, "unknown keys: hidden_sise"),
        ("language", "num_attention_heads", 5, "does not split into 5"),
        ("vision", "patch_size", 7, "no multiple of 7"),
        ("codebook", "num_groups", 3, "no multiple of 3"),
        ("codebook", "plain", [[1, 2, 256]], "not three whole numbers from 0 to 255"),
        ("codebook", "plain", [[1, 2]], "not three whole numbers from 0 to 255"),
        ("codebook", "plain", [[True, 2, 3]], "not three whole numbers from 0 to 255"),
        ("codebook", "plain", "white", "not a list of at most"),
        ("codebook", "plain", [[1, 2, 3], [1, 2, 3]], "plain has a colour twice"),
    ],
)
def test_wrong_values_are_named(
    checkpoint: Checkpoint, section: str, key: str, value: object, message: str
) -> None:
    raw = checkpoint.model.config.to_dict()
    raw[section][key] = value
    with pytest.raises(ValueError, match=message):
        JanusConfig.from_dict(raw)


def test_recolouring_needs_colours(checkpoint: Checkpoint) -> None:
    raw = checkpoint.model.config.to_dict()
    raw["codebook"] = raw["codebook"] | {"plain": (), "recoloured": True}
    with pytest.raises(ValueError, match="recoloured needs the colours of plain"):
        JanusConfig.from_dict(raw)


def test_a_missing_section_is_named(checkpoint: Checkpoint) -> None:
    raw = checkpoint.model.config.to_dict()
    del raw["vision"]
    with pytest.raises(ValueError, match="vision"):
        JanusConfig.from_dict(raw)
