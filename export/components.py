"""The components of a Janus: which module computes each, on which inputs, checked against what.

Every component is torch (the reference) and ONNX (what is exported); tables are looked up.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from janus_edge.export.decoder import IR_VERSION, OPSET, decoder_graph
from janus_edge.model.janus import Janus
from janus_edge.model.language import make_caches

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Component:
    """One graph. ``reference`` maps feeds to the outputs that PyTorch computes.

    ``examples`` are feeds of several sizes for the parity check; ``profile`` gives (min, usual,
    max) of every named dimension.
    """

    name: str
    outputs: tuple[str, ...]
    profile: dict[str, tuple[int, int, int]]
    build: Callable[[], onnx.ModelProto]
    reference: Callable[[Feeds], list[np.ndarray]]
    examples: tuple[Feeds, ...]


class _Call(nn.Module):
    """A module around one function of tensors, for the exporter."""

    def __init__(self, owner: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.owner, self.function = owner, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def graph_components(model: Janus, max_length: int) -> list[Component]:
    """All graphs of an autoregressive Janus for caches of ``max_length`` positions."""
    config, vq = model.config, model.gen_vision_model
    width, image = (
        config.language.hidden_size,
        (3, config.vision.image_size, config.vision.image_size),
    )
    hidden, features = (width,), (config.vision.num_patches, config.vision.width)
    book, codes = config.codebook.size, (config.num_codes,)
    return [
        _one(
            "vision_encoder",
            model.vision_model,
            model.vision_model,
            "pixels",
            image,
            "features",
            "B",
        ),
        _one("vision_aligner", model.aligner, model.aligner, "features", features, "embeds", "B"),
        _decoder(model, max_length),
        _one("text_head", model, model.text_logits, "hidden", hidden, "logits", "R"),
        _one("image_head", model.gen_head, model.image_logits, "hidden", hidden, "logits", "R"),
        _one("image_decoder", vq, vq.decode, "codes", codes, "pixels", "B", below=book),
        _one("image_encoder", vq, vq.encode, "pixels", image, "codes", "B"),
    ]


def _one(
    name: str,
    owner: nn.Module,
    function: Callable[[Tensor], Tensor],
    input_name: str,
    shape: tuple[int, ...],
    output_name: str,
    batch: str,
    below: int | None = None,
) -> Component:
    """A component of one input and one output; ``below`` makes the input integers under it."""
    rng = np.random.default_rng(0)

    def example(size: int) -> Feeds:
        if below is None:
            return {input_name: rng.uniform(-1, 1, (size, *shape)).astype(np.float32)}
        return {input_name: rng.integers(0, below, (size, *shape))}

    def build() -> onnx.ModelProto:
        with _quiet_exporter():
            program = torch.onnx.export(
                _Call(owner, function).eval(),
                (torch.from_numpy(example(2)[input_name]),),
                input_names=[input_name],
                output_names=[output_name],
                dynamic_shapes=({0: torch.export.Dim(batch)},),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        assert program is not None
        proto = program.model_proto
        proto.ir_version = IR_VERSION
        return proto

    def reference(feeds: Feeds) -> list[np.ndarray]:
        with torch.no_grad():
            return [function(torch.from_numpy(feeds[input_name])).numpy()]

    return Component(
        name=name,
        outputs=(output_name,),
        profile={batch: (1, 2 if batch == "R" else 1, 16 if batch == "R" else 8)},
        build=build,
        reference=reference,
        examples=(example(1), example(3)),
    )


def _decoder(model: Janus, max_length: int) -> Component:
    config, decoder = model.config.language, model.language_model.model
    names = [f"{part}_{i}" for i in range(config.num_hidden_layers) for part in "kv"]
    rng = np.random.default_rng(0)

    def example(rows: int, past: int, time: int) -> Feeds:
        shape = (rows, config.num_key_value_heads, max_length, config.head_dim)
        caches = rng.standard_normal((len(names), *shape)).astype(np.float32)
        caches[:, :, :, past:] = 0
        feeds: Feeds = {
            "embeds": rng.standard_normal((rows, time, config.hidden_size)).astype(np.float32),
            "positions": np.tile(np.arange(past, past + time), (rows, 1)),
            "lengths": np.full(rows, past + time),
        }
        return feeds | {f"past_{name}": cache for name, cache in zip(names, caches, strict=True)}

    def reference(feeds: Feeds) -> list[np.ndarray]:
        past = [torch.from_numpy(feeds[f"past_{name}"].copy()) for name in names]
        caches = make_caches(config, len(feeds["embeds"]), max_length)
        for i, (keys, values) in enumerate(caches):
            keys.copy_(past[2 * i]), values.copy_(past[2 * i + 1])
        with torch.no_grad():
            hidden = decoder(
                torch.from_numpy(feeds["embeds"]), torch.from_numpy(feeds["positions"]), caches
            )
        return [hidden.numpy(), *(part.numpy() for cache in caches for part in cache)]

    rows, middle = 2, max_length // 2
    return Component(
        name="decoder",
        outputs=("hidden", *(f"present_{name}" for name in names)),
        profile={
            "R": (1, rows, 16),
            "T": (1, 1, max_length),
            "M": (1, max_length, max_length),
        },
        build=lambda: decoder_graph(decoder, max_length),
        reference=reference,
        examples=(
            example(rows, 0, middle),
            example(rows, middle, 1),
            example(1, middle - 1, 1),
        ),
    )


def tables(model: Janus) -> dict[str, np.ndarray]:
    """The look-ups: token embeddings (V, D), aligned code embeddings (K, D)."""
    with torch.no_grad():
        every = torch.arange(model.config.codebook.size)
        return {
            "text_embed": model.language_model.model.embed_tokens.weight.numpy(),
            "code_embed": model.embed_codes(every).numpy(),
        }


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter about its own deprecations and about torchvision."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def save_graph(proto: onnx.ModelProto, path: Path) -> None:
    """Check a graph and write it."""
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
