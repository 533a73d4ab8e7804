"""Write a random-weight checkpoint of a published shape: python tools/make_checkpoint.py NAME DIR.

Published names, shapes, dtype (bfloat16), file format and shards, with a small stand-in tokenizer;
for tests and benchmarks where the real weights cannot be had. The weights are scaled so that
activations keep their size from layer to layer and logits are neither flat nor extreme.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken
from torch import Tensor

from janus_edge.export.tokenizer import TEMPLATES
from janus_edge.model.janus import Janus
from janus_edge.model.published import read_config
from janus_edge.runtime.files import whole
from janus_edge.train.text import make_tokenizer

NUM_TOKENS = 456  # of the stand-in tokenizer
SHARD_BYTES = 10 * 10**9  # of the published 7B files
_POOL = "vision_model.vision_tower.attn_pool."
UNUSED: dict[str, tuple[int, ...]] = {  # in the published files, and in no model
    f"{_POOL}latent": (1, 1, 1024),
    f"{_POOL}q.weight": (1024, 1024),
    f"{_POOL}q.bias": (1024,),
    f"{_POOL}kv.weight": (2048, 1024),
    f"{_POOL}kv.bias": (2048,),
    f"{_POOL}proj.weight": (1024, 1024),
    f"{_POOL}proj.bias": (1024,),
    f"{_POOL}norm.weight": (1024,),
    f"{_POOL}norm.bias": (1024,),
    f"{_POOL}mlp.fc1.weight": (4096, 1024),
    f"{_POOL}mlp.fc1.bias": (4096,),
    f"{_POOL}mlp.fc2.weight": (1024, 4096),
    f"{_POOL}mlp.fc2.bias": (1024,),
    "gen_vision_model.quantize.codebook_used": (65536,),
}


@dataclass(frozen=True, kw_only=True)
class Published:
    """What differs between the published checkpoints."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    template: str
    file: str  # the name of its weights


_1B = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
PUBLISHED = {
    "janus-1.3b": Published(**_1B, template="janus", file="model.safetensors"),
    "janus-pro-1b": Published(**_1B, template="janus-pro", file="pytorch_model.bin"),
    "janus-pro-7b": Published(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=30,
        num_attention_heads=32,
        template="janus-pro",
        file="pytorch_model.bin",
    ),
}


def published_config(name: str) -> dict[str, Any]:
    """The config.json of a published checkpoint, rewritten from its facts."""
    shape = PUBLISHED[name]
    width = shape.hidden_size

    def part(kind: str, cls: str, **params: Any) -> dict[str, Any]:
        return {"cls": cls, "model_type": kind, "params": params}

    def aligner(kind: str, input_dim: int) -> dict[str, Any]:
        params = {"depth": 2, "input_dim": input_dim, "n_embed": width}
        return part(kind, "MlpProjector", **params, projector_type="mlp_gelu")

    return {
        "model_type": "multi_modality",
        "architectures": ["MultiModalityCausalLM"],
        "torch_dtype": "bfloat16",
        "vision_config": part(
            "vision",
            "CLIPVisionTower",
            image_size=384,
            model_name="siglip_large_patch16_384",
            select_feature="same",
            select_layer=-1,
        ),
        "aligner_config": aligner("aligner", 1024),
        "gen_vision_config": part("gen_vision", "VQ-16", image_token_size=16384, n_embed=8),
        "gen_aligner_config": aligner("gen_aligner", 8),
        "gen_head_config": part(
            "gen_head",
            "vision_head",
            image_token_embed=width,
            image_token_size=16384,
            n_embed=width,
        ),
        "language_config": {
            "model_type": "llama",
            "hidden_size": width,
            "intermediate_size": shape.intermediate_size,
            "num_hidden_layers": shape.num_hidden_layers,
            "num_attention_heads": shape.num_attention_heads,
            "num_key_value_heads": shape.num_attention_heads,
            "vocab_size": 102400,
            "max_position_embeddings": 16384,
            "torch_dtype": "bfloat16",
        },
    }


def random_tensors(
    shapes: dict[str, tuple[int, ...]], num_layers: int
) -> Iterator[tuple[str, Tensor]]:
    """Tensors by name, bfloat16, the same for the same names and shapes."""
    for index, (name, shape) in enumerate(shapes.items()):
        generator = torch.Generator().manual_seed(index)
        yield name, _random(name, shape, num_layers, generator).to(torch.bfloat16)


def _random(
    name: str, shape: tuple[int, ...], num_layers: int, generator: torch.Generator
) -> Tensor:
    if name.endswith("codebook_used"):
        return torch.zeros(shape)
    is_norm = "norm" in name.split(".")[-2]
    if is_norm and name.endswith("weight"):
        return torch.ones(shape)
    if len(shape) == 1:
        return torch.zeros(shape)
    noise = torch.empty(shape).normal_(generator=generator)
    if any(part in name for part in ("embed_tokens", "pos_embed", "gen_embed", "latent")):
        return noise.mul_(0.5)
    if name.endswith("quantize.embedding.weight"):
        return noise
    fan_in = noise[0].numel()
    scale = fan_in**-0.5
    if name.endswith(("o_proj.weight", "down_proj.weight")):  # what a layer adds to the stream
        scale *= (2 * num_layers) ** -0.5
    if name.endswith(("vision_head.weight", "lm_head.weight")):
        scale *= 2  # logits of standard deviation 2
    if name.endswith("lm_head.weight"):
        noise[NUM_TOKENS:] = 0  # no token of the stand-in tokenizer: never the likeliest
    return noise.mul_(scale)


def write_checkpoint(name: str, folder: Path, config: dict[str, Any], file: str) -> None:
    """Write a checkpoint folder; weights a shard at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        model = Janus(read_config(config))
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()} | UNUSED
    layers = model.config.language.num_hidden_layers
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "tokenizer.json").write_text(_tokenizer(PUBLISHED[name].template))
    _write_shards(folder, file, shapes, layers)


def _tokenizer(template: str) -> str:
    """The small model's, with the roles of a published one."""
    tokenizer = make_tokenizer(NUM_TOKENS - 2, 300)
    roles = TEMPLATES[template]
    if template == "janus-pro":
        tokenizer.add_special_tokens(
            [AddedToken(role, special=True) for role in (roles.user_role, roles.assistant_role)]
        )
    return tokenizer.to_str()


def _write_shards(
    folder: Path, file: str, shapes: dict[str, tuple[int, ...]], num_layers: int
) -> None:
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for key, shape in shapes.items():
        num_bytes = 2 * torch.Size(shape).numel()
        if size + num_bytes > SHARD_BYTES:
            groups.append({})
            size = 0
        groups[-1][key] = shape
        size += num_bytes
    stem, suffix = file.rsplit(".", 1)
    names = [f"{stem}-{i + 1:05}-of-{len(groups):05}.{suffix}" for i in range(len(groups))]
    if len(groups) == 1:
        names = [file]
    for shard, group in zip(names, groups, strict=True):
        with whole(folder / shard) as part:
            SAVE[suffix](dict(random_tensors(group, num_layers)), part)
        print(shard, flush=True)
    if len(groups) > 1:
        weight_map = {
            key: shard for shard, group in zip(names, groups, strict=True) for key in group
        }
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / f"{file}.index.json").write_text(json.dumps(index, indent=1) + "\n")


SAVE: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "safetensors": save_file,
    "bin": torch.save,
}


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=PUBLISHED)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    published = PUBLISHED[options.name]
    write_checkpoint(options.name, options.folder, published_config(options.name), published.file)


if __name__ == "__main__":
    main()
