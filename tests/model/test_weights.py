"""Every way to store a checkpoint, and every way for one to be wrong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from janus_edge.model.janus import Janus
from janus_edge.model.matching import UNUSED, find_weights
from janus_edge.model.names import published_name
from janus_edge.model.published import read_config
from janus_edge.model.tensors import CheckpointError
from janus_edge.model.weights import (
    Checkpoint,
    load_checkpoint,
    loaded,
    save_checkpoint,
)

from .conftest import Pair, small_config, sparse_safetensors

PUBLISHED = Path(__file__).parent.parent / "published"  # names and shapes of the published files


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.fixture
def copy(checkpoint_dir: Path, tmp_path: Path) -> Path:
    """A checkpoint to damage."""
    return shutil.copytree(checkpoint_dir, tmp_path / "copy")


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def in_shards(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    groups = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, keys in groups.items():
        save_file({key: tensors[key] for key in keys}, folder / file)
    weight_map = {key: file for file, keys in groups.items() for key in keys}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    (folder / "model.safetensors").unlink()


def in_pickled_shards(folder: Path) -> None:
    in_shards(folder)
    for path in sorted(folder.glob("model-*.safetensors")):
        torch.save(load_file(path), path.with_name(f"pytorch_{path.stem}.bin"))
        path.unlink()
    index = folder / "model.safetensors.index.json"
    text = (
        index.read_text(encoding="utf-8")
        .replace("model-", "pytorch_model-")
        .replace(".safetensors", ".bin")
    )
    (folder / "pytorch_model.bin.index.json").write_text(text, encoding="utf-8")
    index.unlink()


def same(a: Janus, b: Janus) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("stored", [as_pickle, in_shards, in_pickled_shards])
def test_every_layout(copy: Path, checkpoint: Checkpoint, stored: Callable[[Path], None]) -> None:
    stored(copy)
    assert same(load_checkpoint(copy).model, checkpoint.model)


def test_saving_gives_the_same_bits(pair: Pair, tmp_path: Path) -> None:
    """transformers' naming to ours and back to a file, in bfloat16."""
    source = {name: value.bfloat16() for name, value in pair.theirs.state_dict().items()}
    first, again = tmp_path / "first", tmp_path / "again"
    shutil.copytree(pair.folder, first)
    save_file({name: value.contiguous() for name, value in source.items()},
              first / "model.safetensors")  # fmt: skip
    (first / "tokenizer.json").write_text("{}", encoding="utf-8")
    save_checkpoint(load_checkpoint(first), again, torch.bfloat16)
    save_checkpoint(load_checkpoint(again), tmp_path / "third", torch.bfloat16)
    once, twice = (load_file(f / "model.safetensors") for f in (again, tmp_path / "third"))
    assert once.keys() == twice.keys()
    assert all(torch.equal(once[name], twice[name]) for name in once)
    joined: dict[str, dict[int, Tensor]] = {}
    for name, value in source.items():
        ours, part = published_name(name)
        joined.setdefault(ours, {})[part or 0] = value
    assert joined.keys() == once.keys()
    for name, parts in joined.items():
        value = torch.cat([parts[i] for i in sorted(parts)])
        assert torch.equal(value.reshape(once[name].shape), once[name]), name


def test_a_published_name_is_its_own(checkpoint: Checkpoint) -> None:
    for name in checkpoint.model.state_dict():
        assert published_name(name) == (name, None)


def test_tied_heads(pair: Pair, tmp_path: Path) -> None:
    folder = shutil.copytree(pair.folder, tmp_path / "tied")
    rewrite(folder, lambda tensors: tensors.pop("lm_head.weight"))
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"missing language_model\.lm_head\.weight"):
        load_checkpoint(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(
        json.dumps(config | {"tie_word_embeddings": True}), encoding="utf-8"
    )
    model = load_checkpoint(folder).model.language_model
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)

    def under_the_other_name(tensors: dict[str, Tensor]) -> None:  # as safetensors' save_model
        tensors["lm_head.weight"] = tensors.pop("model.language_model.embed_tokens.weight")

    rewrite(folder, under_the_other_name)
    other = load_checkpoint(folder).model.language_model
    assert torch.equal(other.lm_head.weight, other.model.embed_tokens.weight)
    assert torch.equal(other.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("stored", [in_shards, in_pickled_shards])
def test_a_single_file_comes_before_shards_of_old(
    copy: Path, checkpoint: Checkpoint, stored: Callable[[Path], None]
) -> None:
    """Saving a model that has become small leaves the index of its shards."""
    single = (copy / "model.safetensors").read_bytes()
    stored(copy)
    (copy / "model.safetensors").write_bytes(single)
    for shard in copy.glob("*-00001-of-*"):
        shard.unlink()
    assert same(load_checkpoint(copy).model, checkpoint.model)


@pytest.mark.parametrize("old", [False, True])
def test_a_damaged_pickle_is_one_line(copy: Path, *, old: bool) -> None:
    as_pickle(copy)
    path = copy / "pytorch_model.bin"
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=not old)
    raw, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(raw[: rng.integers(len(raw))] if rng.random() < 0.3 else raw)
        for at in rng.integers(min(len(damaged), 3000), size=4):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        with suppress(CheckpointError):
            load_checkpoint(copy)


@pytest.mark.parametrize(
    ("names", "config"),
    [("1b", "janus-pro-1b"), ("7b", "janus-pro-7b")],
)
def test_every_published_tensor_has_its_place(names: str, config: str, tmp_path: Path) -> None:
    """All names and shapes of the published files, as a sparse file without data."""
    shapes = json.loads((PUBLISHED / f"state-dict-{names}.json").read_text(encoding="utf-8"))
    path = tmp_path / "model.safetensors"
    sparse_safetensors(path, shapes)
    with torch.device("meta"):
        model = Janus(
            read_config(
                json.loads((PUBLISHED / f"config-{config}.json").read_text(encoding="utf-8"))
            )
        )
    weights = find_weights(model, path)
    used = {name for name in shapes if not name.startswith(UNUSED)}
    assert {source for of in weights.sources.values() for source in of} == used
    assert set(weights.sources) == used


def test_weights_come_and_go(copy: Path, checkpoint: Checkpoint) -> None:
    lazy = load_checkpoint(copy, lazy=True)
    assert all(parameter.is_meta for parameter in lazy.model.parameters())
    with loaded(lazy, "aligner.", "gen_head."):
        there = {name for name, p in lazy.model.named_parameters() if not p.is_meta}
        assert there and all(name.startswith(("aligner.", "gen_head.")) for name in there)
        assert torch.equal(
            lazy.model.aligner.layers[0].weight, checkpoint.model.aligner.layers[0].weight
        )
        with loaded(lazy, "aligner.", "language_model.lm_head."):
            assert not lazy.model.language_model.lm_head.weight.is_meta
        assert there == {name for name, p in lazy.model.named_parameters() if not p.is_meta}
    assert all(parameter.is_meta for parameter in lazy.model.parameters())


class Malicious:
    """What a hostile pickle does: it runs a command when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch owned",)


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def truncate_pickle(folder: Path) -> None:
    as_pickle(folder)
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def hide_a_command(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"gen_embed.weight": Malicious()}, folder / "pytorch_model.bin")


def hold_something_else(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"step": 3, "model": {}}, folder / "pytorch_model.bin")


def point_outside(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {"gen_embed.weight": "../../secret"}}), encoding="utf-8"
    )
    (folder / "model.safetensors").unlink()


def lose_a_shard(folder: Path) -> None:
    in_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


REMOVE, RENAME = "aligner.layers.0.weight", "gen_embed.weight"


def remove(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.pop(REMOVE))


def rename(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update(gen_embedding=tensors.pop(RENAME)))


def reshape(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({RENAME: tensors[RENAME][:-1].clone()}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (remove, f"does not fit config.json: missing {REMOVE}"),
        (rename, f"missing {RENAME}; unexpected gen_embedding"),
        (reshape, f"{RENAME} is [39, 8], not [40, 8]"),
        (truncate, "model.safetensors: damaged"),
        (truncate_pickle, "pytorch_model.bin: damaged"),
        (hide_a_command, "pytorch_model.bin: refused"),
        (hold_something_else, "holds more than tensors"),
        (point_outside, "names files outside its folder"),
        (lose_a_shard, "no file model-00002-of-00002.safetensors"),
    ],
)
def test_each_fault_gives_one_line(
    copy: Path, damage: Callable[[Path], None], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy)
    damage(copy)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(copy)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (copy / "owned").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "llava"}, 'model_type is "llava"'),
        ({"text_config__hidden_act": "gelu"}, 'hidden_act is "gelu"'),
        ({"text_config__model_type": "qwen2"}, 'model_type is "qwen2"'),
        ({"text_config__rope_parameters": {"rope_type": "yarn"}}, 'rope_type is "yarn"'),
        ({"vision_config__use_qk_norm": True}, 'use_qk_norm is "True"'),
        ({"vq_config__double_latent": True}, 'double_latent is "True"'),
        ({"text_config__hidden_size": "big"}, 'hidden_size is "big"'),
    ],
)
def test_transformers_configs_that_are_no_janus(change: dict[str, Any], says: str) -> None:
    kind = change.pop("model_type", "janus")
    with pytest.raises(ValueError, match=says):
        read_config(small_config(**change) | {"model_type": kind})


@pytest.mark.parametrize(
    ("section", "key", "value", "says"),
    [
        ("vision_config", "cls", "ResNet", 'cls is "ResNet"'),
        ("gen_vision_config", "cls", "VQ-8", 'gen_vision_config.cls is "VQ-8"'),
        ("aligner_config", "cls", "Identity", 'cls is "Identity"'),
        ("language_config", "attention_bias", True, 'attention_bias is "True"'),
        ("gen_head_config", None, None, "no section gen_head_config"),
    ],
)
def test_published_configs_that_are_no_janus(
    section: str, key: str | None, value: Any, says: str
) -> None:
    raw = json.loads((PUBLISHED / "config-janus-pro-1b.json").read_text(encoding="utf-8"))
    assert read_config(raw).num_codes == 576
    if key is None:
        del raw[section]
    else:
        raw[section][key] = value
    with pytest.raises(ValueError, match=says):
        read_config(raw)


def test_safetensors_are_not_kept_open(copy: Path) -> None:
    """A lazy checkpoint survives being replaced: nothing is mapped between reads."""
    lazy = load_checkpoint(copy, lazy=True)
    shutil.copy(copy / "model.safetensors", copy / "new")
    (copy / "new").replace(copy / "model.safetensors")
    with loaded(lazy, "aligner."), safe_open(copy / "model.safetensors", "pt") as file:
        expected = file.get_tensor("aligner.layers.0.weight").float()
        assert torch.equal(lazy.model.aligner.layers[0].weight, expected)
