"""Write a random-weight checkpoint of a published shape: python tools/make_checkpoint.py NAME DIR.

Names, shapes, dtype (bf16), file format and shards are the published ones; the tokenizer is a small
stand-in. It is for tests and benchmarks where the real weights are not available. The weights are
scaled so that activations keep their size from layer to layer and logits are neither flat nor
extreme. A JanusFlow comes with an autoencoder of SDXL's shape in ``vae``, in fp32 as it is
published.
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

from janus_edge.export.tokenizer.roles import TEMPLATES
from janus_edge.model.config import JanusConfig
from janus_edge.model.janus import Janus
from janus_edge.model.janusflow import JanusFlow
from janus_edge.model.published import read_config
from janus_edge.model.vae import SDXL, VAEConfig, vae_config_json
from janus_edge.model.weights import VAE_FOLDER, Model, family_of
from janus_edge.runtime.files import atomic_write
from janus_edge.train.text import make_tokenizer

CONFIGS = Path(__file__).resolve().parent.parent / "tests" / "published"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published checkpoint.

    Attributes:
        config: Name of the checkpoint whose config it has.
        template: Name of its roles.
        file: Name of its weights.
    """

    config: str
    template: str
    file: str


PUBLISHED = {
    "janus-1.3b": Published(config="janus-pro-1b", template="janus", file="model.safetensors"),
    "janus-pro-1b": Published(
        config="janus-pro-1b", template="janus-pro", file="pytorch_model.bin"
    ),
    "janus-pro-7b": Published(
        config="janus-pro-7b", template="janus-pro", file="pytorch_model.bin"
    ),
    "janusflow-1.3b": Published(
        config="janusflow-1.3b", template="janus", file="model.safetensors"
    ),
}
NUM_TOKENS = 456  # tokens of the stand-in tokenizer
SHARD_BYTES = 10 * 10**9  # as in the published 7B files
VAE_FILE = "diffusion_pytorch_model.safetensors"
_EMBEDDINGS = ("embed_tokens", "pos_embed", "gen_embed", "latent", "beg_of_und_embed")
Shapes = dict[str, tuple[int, ...]]
_POOL: Shapes = {
    "latent": (1, 1, 1024),
    "q.weight": (1024, 1024),
    "q.bias": (1024,),
    "kv.weight": (2048, 1024),
    "kv.bias": (2048,),
    "proj.weight": (1024, 1024),
    "proj.bias": (1024,),
    "norm.weight": (1024,),
    "norm.bias": (1024,),
    "mlp.fc1.weight": (4096, 1024),
    "mlp.fc1.bias": (4096,),
    "mlp.fc2.weight": (1024, 4096),
    "mlp.fc2.bias": (1024,),
}


def _pool(encoder: str) -> Shapes:
    """Return the shapes of the tower's pooling head, which no model of ours uses."""
    return {f"{encoder}.vision_tower.attn_pool.{name}": shape for name, shape in _POOL.items()}


UNUSED: dict[str, Shapes] = {  # by family: tensors of published files that no model uses
    "janus": _pool("vision_model") | {"gen_vision_model.quantize.codebook_used": (65536,)},
    "janusflow": _pool("vision_und_enc_model"),
}


def empty_model(config: dict[str, Any], vae: VAEConfig) -> Model:
    """Return the model of a config.json on the meta device.

    Args:
        config: Content of the config.json.
        vae: Sizes of the autoencoder, for a JanusFlow.
    """
    sizes = read_config(config)
    with torch.device("meta"):
        return Janus(sizes) if isinstance(sizes, JanusConfig) else JanusFlow(sizes, vae)


def published_shapes(model: Model) -> tuple[Shapes, Shapes]:
    """Return the shapes of the checkpoint's own tensors, and of its separate autoencoder's."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    beside = {n.removeprefix("vae."): own.pop(n) for n in list(own) if n.startswith("vae.")}
    return own | UNUSED[family_of(model)], beside


def random_tensors(
    shapes: Shapes, num_layers: int, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors by name; the same names and shapes give the same values.

    Args:
        shapes: Shape of each tensor by name.
        num_layers: Layers of the language model, which scale what each adds to the stream.
        dtype: Dtype of the tensors.
    """
    for index, (name, shape) in enumerate(shapes.items()):
        generator = torch.Generator().manual_seed(index)
        yield name, _random(name, shape, num_layers, generator).to(dtype)


def _random(
    name: str, shape: tuple[int, ...], num_layers: int, generator: torch.Generator
) -> Tensor:
    """Return a tensor of a scale that suits its name."""
    if name.endswith("codebook_used"):
        return torch.zeros(shape)
    is_norm = "norm" in name.rpartition(".")[0].rpartition(".")[2]
    if is_norm and name.endswith("weight"):
        return torch.ones(shape)
    if len(shape) == 1 or name.endswith(".bias"):
        return torch.zeros(shape)
    noise = torch.empty(shape).normal_(generator=generator)
    if any(part in name for part in _EMBEDDINGS):
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
        noise[NUM_TOKENS:] = 0  # ids without a token in the stand-in tokenizer are never likeliest
    return noise.mul_(scale)


def published_config(name: str) -> str:
    """Return the config.json of a published checkpoint, to the byte (tests/published)."""
    return (CONFIGS / f"config-{PUBLISHED[name].config}.json").read_text(encoding="utf-8")


def write_checkpoint(
    name: str, folder: Path, config: str, file: str, vae: VAEConfig = SDXL
) -> None:
    """Write a checkpoint folder, with its autoencoder for a JanusFlow; one shard at a time.

    Args:
        name: One of ``PUBLISHED``.
        folder: Where to write; created if missing.
        config: Text of the config.json.
        file: Name of the weights, before it is split into shards.
        vae: Sizes of a JanusFlow's autoencoder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = empty_model(json.loads(config), vae)
    own, beside = published_shapes(model)
    layers = model.config.language.num_hidden_layers
    _write_text(folder / "config.json", config)
    _write_text(folder / "tokenizer.json", _tokenizer(PUBLISHED[name].template))
    _write_shards(folder, file, own, layers, torch.bfloat16)
    if beside:
        (folder / VAE_FOLDER).mkdir(exist_ok=True)
        _write_json(folder / VAE_FOLDER / "config.json", vae_config_json(vae))
        _write_shards(folder / VAE_FOLDER, VAE_FILE, beside, layers, torch.float32)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    _write_text(path, json.dumps(content, indent=1) + "\n")


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def _tokenizer(template: str) -> str:
    """Return the small model's tokenizer.json, with the roles of a published one."""
    tokenizer = make_tokenizer(NUM_TOKENS - 2, 300)
    roles = TEMPLATES[template]
    if template == "janus-pro":
        tokenizer.add_special_tokens(
            [AddedToken(role, special=True) for role in (roles.user_role, roles.assistant_role)]
        )
    return tokenizer.to_str()


def _write_shards(
    folder: Path, file: str, shapes: Shapes, num_layers: int, dtype: torch.dtype
) -> None:
    """Write weights in shards of at most SHARD_BYTES, with an index if there are several."""
    groups: list[Shapes] = [{}]
    size = 0
    for key, shape in shapes.items():
        num_bytes = dtype.itemsize * torch.Size(shape).numel()
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
        with atomic_write(folder / shard) as part:
            SAVE[suffix](dict(random_tensors(group, num_layers, dtype)), part)
        print(folder / shard, flush=True)
    if len(groups) > 1:
        weight_map = {
            key: shard for shard, group in zip(names, groups, strict=True) for key in group
        }
        index = {"metadata": {}, "weight_map": weight_map}
        _write_json(folder / f"{file}.index.json", index)


SAVE: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "safetensors": save_file,
    "bin": torch.save,
}


def main() -> None:
    """Parse the command line and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=PUBLISHED)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    published = PUBLISHED[options.name]
    write_checkpoint(options.name, options.folder, published_config(options.name), published.file)


if __name__ == "__main__":
    main()
