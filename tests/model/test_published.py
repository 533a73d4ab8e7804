"""Published configs as published, as each version of transformers writes them, and with less."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from janus_edge.model.config import (
    CodebookConfig,
    ImageHeadConfig,
    JanusConfig,
    JanusFlowConfig,
    LanguageConfig,
    VisionConfig,
)
from janus_edge.model.published import is_tied, read_config

PUBLISHED = Path(__file__).parent.parent / "published"
NAMES = ("janus-pro-1b", "janus-pro-7b", "janusflow-1.3b")
SAVED = sorted(path.relative_to(PUBLISHED) for path in PUBLISHED.glob("transformers-*/*.json"))
# transformers' LlamaConfig, by 4.33 and by 5.23 alike.
LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "head_dim": None,
}


def published(name: str) -> Any:
    return json.loads((PUBLISHED / f"config-{name}.json").read_text(encoding="utf-8"))


def test_the_published_7b() -> None:
    """Sizes from the published weights (state-dict-7b.json) and the paper's table 1."""
    assert read_config(published("janus-pro-7b")) == JanusConfig(
        language=LanguageConfig(
            vocab_size=102400,
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=30,
            num_attention_heads=32,
            num_key_value_heads=32,
            max_position_embeddings=16384,
            rms_norm_eps=1e-6,
            rope_theta=10000.0,
        ),
        vision=VisionConfig(image_size=384, patch_size=16, width=1024, layers=24, heads=16),
        codebook=CodebookConfig(
            size=16384,
            dim=8,
            z_channels=256,
            channels=128,
            encoder_ch_mult=(1, 1, 2, 2, 4),
            decoder_ch_mult=(1, 1, 2, 2, 4),
        ),
        gen_head=ImageHeadConfig(image_token_embed=4096),
    )


def test_transformers_writes_the_published_7b() -> None:
    """So the other files of transformers-X are what it would have made of the others."""
    saved = PUBLISHED / "transformers-4.33.1" / "multi_modality-janus-pro-7b.json"
    assert json.loads(saved.read_text(encoding="utf-8")) == published("janus-pro-7b")


@pytest.mark.parametrize("path", SAVED, ids=str)
def test_what_each_version_of_transformers_writes(path: Path) -> None:
    raw = json.loads((PUBLISHED / path).read_text(encoding="utf-8"))
    name = path.stem.partition("-")[2]
    assert read_config(raw) == read_config(published(name))


def test_the_versions_are_there() -> None:
    versions = {path.parts[0].removeprefix("transformers-") for path in SAVED}
    wanted = ("4.33", "4.38", "4.46", "4.52", "4.57", "5.")
    assert all(any(each.startswith(start) for each in versions) for start in wanted)


def whole(name: str) -> dict[str, Any]:
    """A published config with every field of its language model."""
    raw = published(name)
    raw["language_config"] = LLAMA | raw["language_config"]
    return raw


def defaultable(raw: dict[str, Any]) -> list[tuple[str, ...]]:
    """Where fields stand that may be missing without another model coming out."""
    language = raw["language_config"]
    found = [("language_config", key) for key, value in LLAMA.items() if language[key] == value]
    if language.get("num_key_value_heads") == language["num_attention_heads"]:
        found.append(("language_config", "num_key_value_heads"))
    found += [("language_config", "model_type"), ("language_config", "torch_dtype")]
    for name, section in raw.items():
        if isinstance(section, dict) and "cls" in section:
            found += [(name, "cls"), (name, "model_type"), (name, "params")]
            found += [(name, "params", key) for key in section["params"]]
    return [*found, ("torch_dtype",)]


def removed(raw: dict[str, Any], path: tuple[str, ...]) -> None:
    *parents, last = path
    for key in parents:
        raw = raw.get(key, {})
    raw.pop(last, None)


@pytest.mark.parametrize("name", NAMES)
def test_each_field_that_may_be_missing(name: str) -> None:
    paths = defaultable(whole(name))
    assert len(paths) > 30
    for path in paths:
        raw = whole(name)
        removed(raw, path)
        assert read_config(raw) == read_config(published(name)), path


@pytest.mark.parametrize("name", NAMES)
def test_all_fields_that_may_be_missing(name: str) -> None:
    raw = whole(name)
    for path in defaultable(raw):
        removed(raw, path)
    assert "params" not in str(raw)
    assert read_config(raw) == read_config(published(name))


def test_a_transformers_config_without_its_defaults() -> None:
    """JanusConfig's own defaults are Janus-Pro-1B's parts beside the language model."""
    raw = {"model_type": "janus", "text_config": published("janus-pro-1b")["language_config"]}
    assert read_config(raw) == read_config(published("janus-pro-1b"))
    assert read_config({"model_type": "janus"}).language.hidden_size == 4096


@pytest.mark.parametrize(
    "fields",
    [
        {"num_key_value_heads": None},
        {"rope_scaling": {"rope_type": "default"}},
        {"rope_scaling": {"type": "default"}},
        {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
        {"rope_parameters": None, "rope_scaling": None},
        {"rope_theta": 10000},
        {"dtype": "bfloat16"},
        {"head_dim": None},
        {"head_dim": 128},
        {"attention_dropout": 0.0, "pretraining_tp": 1, "use_cache": False, "sliding_window": None},
    ],
)
def test_ways_to_say_the_same(fields: dict[str, Any]) -> None:
    raw = published("janus-pro-7b")
    raw["language_config"] |= fields
    assert read_config(raw) == read_config(published("janus-pro-7b"))


def test_another_base_of_the_rotation() -> None:
    raw = published("janus-pro-7b")
    raw["language_config"]["rope_parameters"] = {"rope_theta": 5e5, "rope_type": "default"}
    config = read_config(raw)
    assert isinstance(config, JanusConfig) and config.language.rope_theta == 5e5


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, 'rope_type is "linear"'),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 'type is "dynamic"'),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, 'rope_type is "yarn"'),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "only one for all layers"),
        ({"rope_scaling": 2}, 'rope_scaling is "2", not an object'),
        ({"partial_rotary_factor": 0.5}, 'partial_rotary_factor is "0.5"'),
        ({"hidden_act": "gelu"}, 'hidden_act is "gelu"; only "silu"'),
        ({"attention_bias": True}, 'attention_bias is "True"'),
        ({"mlp_bias": True}, 'mlp_bias is "True"'),
        ({"sliding_window": 4096}, 'sliding_window is "4096"'),
        ({"model_type": "qwen2"}, 'model_type is "qwen2"; only "llama"'),
        ({"head_dim": 64}, 'head_dim is "64", not 128'),
        (
            {"quantization_config": {"quant_method": "bitsandbytes"}},
            'quantization_config "bitsandbytes": weights that another',
        ),
    ],
)
def test_what_is_not_computed_is_refused(fields: dict[str, Any], says: str) -> None:
    raw = published("janus-pro-7b")
    raw["language_config"] |= fields
    with pytest.raises(ValueError) as caught:
        read_config(raw)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_weights_quantized_by_others() -> None:
    raw = published("janus-pro-7b") | {"quantization_config": {"quant_method": "fp8"}}
    with pytest.raises(ValueError, match='"fp8": weights that another program'):
        read_config(raw)


WRONG = (0, -1, 2**31, 10**400, 1.5, "48", True, None, [1], {}, float("nan"), float("inf"))


@pytest.mark.parametrize("value", WRONG, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("name", NAMES)
def test_every_number_is_checked(name: str, value: Any) -> None:
    """Wherever a config has a number, something else ends in one line, never in another error."""
    for path in numbers(whole(name)):
        raw = whole(name)
        *parents, last = path
        part = raw
        for key in parents:
            part = part[key]
        part[last] = value
        if last in IGNORED or (last, value) in SOUND:
            continue
        with pytest.raises(ValueError) as caught:
            read_config(raw)
        assert last in str(caught.value) or path[0] in str(caught.value), path
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


IGNORED = ("input_dim", "dropout")  # said by the shapes of the weights; of training
SOUND: list[tuple[str, Any]] = [
    ("num_key_value_heads", None),
    ("padding", 0),
    ("rope_theta", 1.5),
    ("rope_theta", 2**31),
    ("select_layer", -1),
]


def numbers(raw: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Where the numbers of a config stand."""
    found: list[tuple[Any, ...]] = []
    for key, value in raw.items():
        if isinstance(value, dict):
            found += [(key, *rest) for rest in numbers(value)]
        elif type(value) in (int, float):
            found.append((key,))
    return found


@pytest.mark.parametrize("value", [None, [], 3, "text", True])
@pytest.mark.parametrize("name", ["language_config", "vision_config", "gen_head_config"])
def test_a_section_of_another_kind(name: str, value: Any) -> None:
    raw = published("janus-pro-7b") | {name: value}
    with pytest.raises(ValueError, match=name):
        read_config(raw)


def test_tied_heads_are_said_in_either_place() -> None:
    raw = published("janus-pro-7b")
    assert not is_tied(raw)
    assert is_tied(raw | {"tie_word_embeddings": True})
    raw["language_config"]["tie_word_embeddings"] = True
    assert is_tied(raw)
    assert isinstance(read_config(raw), JanusConfig)


def test_the_flow_is_a_flow() -> None:
    assert isinstance(read_config(published("janusflow-1.3b")), JanusFlowConfig)
