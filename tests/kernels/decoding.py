"""A whole decode step by our kernels, and the graph that says what it must compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import triton
from onnx import numpy_helper
from torch import Tensor

from janus_edge.export.bundle.preview import DecodedSamples
from janus_edge.export.graph.components import graph_components
from janus_edge.export.quantization.presets import preset_of
from janus_edge.kernels import attend, gate_up, head, merge, norm, product
from janus_edge.kernels.quantized import INT4, INT8, Packing, pack
from janus_edge.model.config import LanguageConfig
from janus_edge.model.weights import Checkpoint
from tests.kernels.conftest import DEVICE

SLOTS, CHUNK, PARTS = 96, 32, 2
BLOCK = 128  # outputs of a program: the interpreter takes long for each program
Words = tuple[Tensor, Tensor]  # weights and scales


@dataclass(frozen=True)
class Model:
    """A decoder and image head: the tensors of its graphs, and the graphs themselves.

    Attributes:
        config: The language model's.
        tensors: Initializers of the graphs of ONNX Runtime's operators, by name.
        step: Runs the graph of standard operators.
        logits: Runs the image head of standard operators.
    """

    config: LanguageConfig
    tensors: dict[str, np.ndarray]
    step: Callable[[dict[str, np.ndarray]], list[np.ndarray]]
    logits: Callable[[dict[str, np.ndarray]], list[np.ndarray]]

    def words(self, names: list[str], packing: Packing = INT4) -> Words:
        """Return weights as the kernels read them, those of several layers one after another."""
        found = [self._matrix(name, packing) for name in names]
        values, scales = (torch.cat(each) for each in zip(*found, strict=True))
        return pack(values, packing).to(DEVICE), scales.to(DEVICE)

    def vector(self, name: str) -> Tensor:
        """Return an initializer."""
        return torch.from_numpy(self.tensors[name].copy()).float().to(DEVICE)

    def _matrix(self, name: str, packing: Packing) -> tuple[Tensor, Tensor]:
        quantized = torch.from_numpy(self.tensors[f"{name}.weight.quantized"].copy())
        if packing.bits == 4:
            quantized = torch.stack((quantized & 15, quantized >> 4), -1)
        scales = self.tensors[f"{name}.weight.scales"]
        return quantized.reshape(len(scales), -1), torch.from_numpy(scales.copy())


def model_of(checkpoint: Checkpoint, folder: Path) -> Model:
    """Export a checkpoint twice: what the kernels take, and what they must equal."""
    tensors: dict[str, np.ndarray] = {}
    runs: dict[str, Any] = {}
    for lowering in ("onnxruntime", "portable"):
        preset = preset_of("int4", cache="float32", lowering=lowering)
        made = graph_components(
            checkpoint, SLOTS, preset, image_encoder=False, decoded=DecodedSamples(checkpoint)
        )
        for component in made:
            if component.name not in ("decoder", "image_head"):
                continue
            graph = component.build(None)
            if lowering == "onnxruntime":
                found = graph.graph.initializer
                tensors |= {each.name: numpy_helper.to_array(each) for each in found}
                continue
            path = folder / f"{component.name}.onnx"
            onnx.save(graph, path)
            runs[component.name] = partial(exact(path).run, None)
    config = checkpoint.model.config.language
    return Model(config, tensors, runs["decoder"], runs["image_head"])


def exact(path: Path) -> ort.InferenceSession:
    """Open a graph whose products take float32: by itself ONNX Runtime makes 8 bits of inputs."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@dataclass
class Step:
    """The state of a step: caches, positions, and the rows' inputs."""

    keys: list[Tensor]
    values: list[Tensor]
    positions: Tensor
    embeds: Tensor


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(shape, float("nan"), dtype=dtype, device=DEVICE)


def normed(model: Model, name: str, stream: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the stream with the parts, and its norm in float16."""
    kept, made = empty(*stream.shape), empty(*stream.shape, dtype=torch.float16)
    weights, epsilon = model.vector(f"{name}.weight"), model.config.rms_norm_eps
    norm.norm(stream, parts, weights, kept, made, epsilon)
    return kept, made


def logits_of(model: Model, step: Step) -> Tensor:
    """Run all kernels of a step, eight per layer and three for the head; return the logits."""
    config, rows = model.config, len(step.embeds)
    heads, shared, size = (
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    )
    stream, parts = step.embeds, torch.zeros(PARTS, *step.embeds.shape, device=DEVICE)
    chunks = triton.cdiv(SLOTS, CHUNK)
    angles = model.vector("cos"), model.vector("sin")
    for index, caches in enumerate(zip(step.keys, step.values, strict=True)):
        at = f"layers.{index}"
        stream, given = normed(model, f"{at}.input_layernorm", stream, parts)
        outputs = empty(1, rows, (heads + 2 * shared) * size)
        weights = model.words([f"{at}.{name}_proj" for name in "qkv"])
        product.product(given, *weights, outputs, BLOCK)
        attended, stats = empty(rows, heads, chunks, size), empty(rows, heads, chunks, 2)
        places = step.positions, step.positions + 1
        attend.attend(outputs[0], *angles, *caches, *places, attended, stats)
        given, parts = empty(rows, heads * size, dtype=torch.float16), empty(PARTS, *stream.shape)
        merge.merge(attended, stats, *places, given, CHUNK)
        product.product(given, *model.words([f"{at}.o_proj"]), parts, BLOCK)
        stream, given = normed(model, f"{at}.post_attention_layernorm", stream, parts)
        inner, parts = empty(rows, config.intermediate_size), empty(PARTS, *stream.shape)
        weights = model.words([f"{at}.gate_proj", f"{at}.up_proj"])
        gate_up.gate_up(given, *weights, inner, BLOCK)
        product.product(inner, *model.words([f"{at}.down_proj"]), parts, BLOCK)
    hidden = empty(*stream.shape)
    weights = model.vector("hidden.weight")
    norm.norm(stream, parts, weights, empty(*stream.shape), hidden, config.rms_norm_eps)
    for name, gelu in (("projected", True), ("logits", False)):
        bias = model.vector(f"{name}.bias")
        result = empty(rows, len(bias))
        head.head(hidden, *model.words([name], INT8), bias, result, gelu=gelu, block=BLOCK)
        hidden = result
    return hidden


def expected_of(model: Model, step: Step) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the logits and the caches that the graph computes of the same state."""
    feeds = {
        "embeds": step.embeds.cpu().numpy()[:, None],
        "positions": step.positions.cpu().numpy()[:, None],
        "lengths": step.positions.cpu().numpy() + 1,
    }
    for index, caches in enumerate(zip(step.keys, step.values, strict=True)):
        for part, cache in zip("kv", caches, strict=True):
            feeds[f"past_{part}_{index}"] = cache.float().cpu().numpy()
    hidden, *caches = model.step(feeds)
    (logits,) = model.logits({"hidden": hidden[:, 0]})
    return logits, caches
