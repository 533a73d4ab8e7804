"""Checkpoints as people have them: what reads, and what is said of those that do not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from janus_edge.model.files import CheckpointError
from janus_edge.model.weights import Checkpoint, Model, load_checkpoint

WEIGHTS = "model.safetensors"


@pytest.fixture
def copy(checkpoint_dir: Path, tmp_path: Path) -> Path:
    """A checkpoint to change."""
    return shutil.copytree(checkpoint_dir, tmp_path / "copy")


@pytest.fixture
def flow(flow_dir: Path, tmp_path: Path) -> Path:
    """A JanusFlow to change."""
    return shutil.copytree(flow_dir, tmp_path / "flow")


def same(a: Model, b: Model) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file(change(tensors) or tensors, folder / WEIGHTS)


def pickled(folder: Path, wrap: Callable[[dict[str, Tensor]], Any], **how: Any) -> None:
    torch.save(wrap(load_file(folder / WEIGHTS)), folder / "pytorch_model.bin", **how)
    (folder / WEIGHTS).unlink()


def with_buffers(tensors: dict[str, Tensor]) -> None:
    layer = "language_model.model.layers.0.self_attn.rotary_emb.inv_freq"
    tensors[layer] = torch.ones(8)
    tensors["vision_model.vision_tower.embeddings.position_ids"] = torch.arange(16)[None]


def prefixed(prefix: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(
        folder, lambda tensors: {prefix + name: value for name, value in tensors.items()}
    )


def marked(folder: Path) -> None:
    """A byte order mark, as Windows' editors write it."""
    for name in ("config.json", "tokenizer.json"):
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(b"\xef\xbb\xbf" + raw)


READ: list[Callable[[Path], None]] = [
    lambda folder: rewrite(folder, with_buffers),
    prefixed("module."),
    prefixed("_orig_mod."),
    prefixed("module._orig_mod."),
    lambda folder: pickled(folder, lambda tensors: {"state_dict": tensors, "epoch": 3}),
    lambda folder: pickled(folder, lambda tensors: {"module": tensors}),
    lambda folder: pickled(folder, dict, _use_new_zipfile_serialization=False),
    lambda folder: pickled(
        folder, lambda tensors: {f"module.{name}": value for name, value in tensors.items()}
    ),
    marked,
]


@pytest.mark.parametrize("change", READ)
@pytest.mark.parametrize("lazy", [False, True])
def test_reads(
    change: Callable[[Path], None], lazy: bool, copy: Path, checkpoint: Checkpoint
) -> None:
    change(copy)
    found = load_checkpoint(copy, lazy=lazy)
    if found.weights is None:
        assert same(found.model, checkpoint.model)
        assert found.tokenizer_json == checkpoint.tokenizer_json
    else:
        name, tensor = next(found.weights.read("aligner.layers.0.weight"))
        assert torch.equal(tensor.float(), checkpoint.model.get_parameter(name))


def in_the_cache(folder: Path) -> Path:
    """huggingface_hub's folders: snapshots of links to blobs."""
    cache = folder.parent / "models--deepseek-ai--Janus-Pro-1B"
    blobs, old, new = cache / "blobs", cache / "snapshots" / "aa11", cache / "snapshots" / "bb22"
    for each in (blobs, old, new, cache / "refs"):
        each.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        shutil.copy(path, blobs / str(number))
        (new / path.name).symlink_to(f"../../blobs/{number}")
    (cache / "refs" / "main").write_text("bb22\n", encoding="utf-8")
    return cache


def test_a_cache_folder_leads_to_its_snapshot(copy: Path, checkpoint: Checkpoint) -> None:
    cache = in_the_cache(copy)
    assert same(load_checkpoint(cache).model, checkpoint.model)
    (cache / "refs" / "main").unlink()
    with pytest.raises(CheckpointError, match="with these snapshots: aa11, bb22; give the one"):
        load_checkpoint(cache)
    (cache / "snapshots" / "aa11").rmdir()
    assert same(load_checkpoint(cache).model, checkpoint.model)
    (cache / "blobs" / "1").unlink()  # model.safetensors
    with pytest.raises(CheckpointError, match=r"a link to \.\./\.\./blobs/1, which is not there"):
        load_checkpoint(cache)


def pointer(name: str) -> Callable[[Path], None]:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4178000000\n"
    return replaced(name, lambda path: path.write_text(text, encoding="utf-8"))


def as_gguf(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "janus-q4_0.gguf").write_bytes(b"GGUF\x03\0\0\0")


def as_gguf_alone(folder: Path) -> None:
    as_gguf(folder)
    (folder / "config.json").unlink()


def adapter_alone(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(b"")


def adapter_beside(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")


def unmerged(tensors: dict[str, Tensor]) -> None:
    name = "language_model.model.layers.0.self_attn.q_proj"
    tensors[f"{name}.base_layer.weight"] = tensors.pop(f"{name}.weight")
    tensors[f"{name}.lora_A.default.weight"] = torch.ones(2, 48)


def cast(dtype: torch.dtype) -> Callable[[Path], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        name = "language_model.model.layers.0.mlp.up_proj.weight"
        tensors[name] = tensors[name].to(dtype)

    return lambda folder: rewrite(folder, change)


def pickled_integers(folder: Path) -> None:
    cast(torch.int32)(folder)
    pickled(folder, dict)


def as_bitsandbytes(tensors: dict[str, Tensor]) -> None:
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    tensors[f"{name}.absmax"] = torch.ones(4)
    tensors[name] = torch.zeros(1920, 1, dtype=torch.uint8)


def in_config(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(raw | fields), encoding="utf-8")

    return change


def shards_alone(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    for part in range(2):
        half = {name: tensors[name] for name in names[part::2]}
        save_file(half, folder / f"model-0000{part + 1}-of-00002.safetensors")
    (folder / WEIGHTS).unlink()


def replaced(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def saved(samples: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / "samples.npy", samples)


def several(folder: Path) -> None:
    with (folder / "samples.npy").open("wb") as file:
        np.savez(file, codes=np.zeros((2, 16), np.int64))


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


ROLES = ("user_role", "assistant_role", "system_prompt")
QUANTIZED = "that another program has quantized; export the original checkpoint"
FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (pointer(WEIGHTS), 'model.safetensors: a Git LFS pointer in place of the file; run "git lfs'),
    (pointer("config.json"), "config.json: a Git LFS pointer"),
    (pointer("tokenizer.json"), "tokenizer.json: a Git LFS pointer"),
    (as_gguf, "janus-q4_0.gguf: GGUF, a format of llama.cpp"),
    (as_gguf_alone, "janus-q4_0.gguf: GGUF, a format of llama.cpp"),
    (adapter_alone, "holds a LoRA adapter (adapter_config.json)"),
    (adapter_beside, "holds a LoRA adapter (adapter_config.json)"),
    (lambda folder: rewrite(folder, unmerged), "of a LoRA adapter; merge it into its base"),
    (cast(torch.int8), f"layers.0.mlp.up_proj.weight is I8: weights {QUANTIZED}"),
    (cast(torch.float8_e4m3fn), f"up_proj.weight is F8_E4M3: weights {QUANTIZED}"),
    (cast(torch.complex64), "up_proj.weight is C64: weights"),
    (
        pickled_integers,
        f"up_proj.weight is int32: weights {QUANTIZED}",
    ),
    (lambda folder: rewrite(folder, as_bitsandbytes), f"absmax: weights {QUANTIZED}"),
    (in_config(quantization_config={"quant_method": "bitsandbytes"}), QUANTIZED),
    (in_config(prompt={"user_role": 3}), "prompt: give the texts assistant_role, system_prompt"),
    (in_config(sampling={"guidance_scale": "much"}), "sampling: guidance_scale"),
    (in_config(sampling={"guidance_scale": 5, "temperature": True}), "sampling: temperature"),
    (in_config(prompt=dict.fromkeys(ROLES, "x" * 5000)), "prompt: user_role: "),
    (in_config(model=[]), "model is"),
    (shards_alone, "not the shards' index model.safetensors.index.json; copy it, too"),
    (replaced(WEIGHTS, os.mkfifo), "model.safetensors: not a regular file"),
    (replaced("config.json", os.mkfifo), "config.json: not a regular file"),
    (replaced("tokenizer.json", device), "tokenizer.json: not a regular file"),
    (replaced("config.json", device), "config.json: not a regular file"),
    (lambda folder: os.mkfifo(folder / "samples.npy"), "samples.npy: not a regular file"),
    (saved(np.full((2, 16), -1)), "samples.npy: not of this model's images"),
    (saved(np.full((2, 16), 0.5)), "samples.npy: not of this model's images"),
    (saved(np.zeros((0, 16), np.int64)), "samples.npy: not of this model's images"),
    (saved(np.full((2, 16), None)), "samples.npy: not an array"),
    (several, "samples.npy: not an array"),
    (lambda folder: (folder / "samples.npy").write_bytes(b"PK\x03\x04 half"), "samples.npy: not"),
    (replaced(WEIGHTS, device), "model.safetensors: not a regular file"),
    (replaced("config.json", lambda path: path.write_text("[" * 10**5, encoding="utf-8")),
     "config.json: not a config that can be read: it is nested too deeply"),
    (replaced("config.json", lambda path: path.write_text(" " * (2**24 + 1), encoding="utf-8")),
     "config.json: Larger than 16777216 bytes"),
    (replaced("config.json", lambda path: path.write_bytes(b"{\xff}")), "not a config"),
    (replaced("config.json", lambda path: path.symlink_to("gone")), "a link to gone, which is not"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "says"), FAULTS, ids=[says[:30] for _, says in FAULTS])
def test_says_what_it_is(damage: Callable[[Path], None], says: str, copy: Path) -> None:
    damage(copy)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(copy, lazy=True)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_many_faults_are_not_all_named(copy: Path) -> None:
    rewrite(copy, lambda tensors: {f"x.{name}": value for name, value in tensors.items()})
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(copy)
    said = str(caught.value)
    assert (said.count("missing"), said.count("unexpected"), said.count(" more")) == (8, 8, 2)


def test_a_file_in_place_of_a_folder(copy: Path) -> None:
    with pytest.raises(CheckpointError, match="a file; give the folder that holds it"):
        load_checkpoint(copy / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"config\.json: No such file"):
        load_checkpoint(copy / "no" / "folder")
