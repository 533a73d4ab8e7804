"""OpenVINO: the decoder over codes, int4 weights in groups of 128 or 32, keys and values as state.

The model is converted from our PyTorch decoder as optimum-intel does it: keys and values grow by
concatenation, beam indices choose their rows, and the plugin turns both into its own cached
attention.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import nncf
import numpy as np
import openvino as ov
import torch
from openvino import opset13
from openvino._offline_transformations import apply_make_stateful_transformation
from torch import Tensor, nn

from janus_edge.bench.process import Run, Workloads
from janus_edge.bench.programs.peers.setup import (
    EPSILON,
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    LAYERS,
    NUM_CODES,
    SEED,
    THETA,
    Peers,
    Setup,
    codes,
)
from janus_edge.model.config import LanguageConfig
from janus_edge.model.language import LanguageModel, rope
from janus_edge.runtime.files import atomic_write

ROWS = 2
CONFIG = LanguageConfig(
    vocab_size=NUM_CODES,
    hidden_size=HIDDEN,
    intermediate_size=INTERMEDIATE,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    num_key_value_heads=HEADS,
    max_position_embeddings=4096,
    rope_theta=THETA,
    rms_norm_eps=EPSILON,
)


@dataclass
class _Growing:
    """Keys and values of a layer that grow; has the method of ``LayerCache``."""

    keys: Tensor
    values: Tensor

    def write(self, _at: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.keys = torch.cat((self.keys, k), dim=2)
        self.values = torch.cat((self.values, v), dim=2)
        return self.keys, self.values


class _Step(nn.Module):
    """Model from ids (R, T), positions (R, T), keys and values (R, G, M, E) to the last logits."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_RT: Tensor, positions_RT: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        decoder = self.model.model
        caches = [_Growing(k, v) for k, v in zip(past[::2], past[1::2], strict=True)]
        slots_M = torch.arange(past[0].shape[2] + ids_RT.shape[1])
        mask = (slots_M <= positions_RT[..., None])[:, None]
        cos, sin = rope(CONFIG, positions_RT)
        x = decoder.embed_tokens(ids_RT)
        for layer, cache in zip(decoder.layers, caches, strict=True):
            x = layer(x, cos, sin, mask, cache, positions_RT)
        logits = self.model.lm_head(decoder.norm(x[:, -1:]))
        return (logits, *(part for cache in caches for part in (cache.keys, cache.values)))


def open_openvino(setup: Setup, *, group: int) -> tuple[str, Workloads]:
    """Open ``codes``; the compressed model is made once.

    Args:
        setup: What peers are opened with.
        group: Weights per scale.
    """
    folder = setup.made / f"codes-openvino-int4-{group}"
    if not folder.exists():
        with atomic_write(folder) as part:
            ov.save_model(_compressed(group), part / "model.xml", compress_to_fp16=False)
        gc.collect()
    options = {"INFERENCE_NUM_THREADS": setup.num_threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.Core().compile_model(folder / "model.xml", "CPU", options)
    workloads: Workloads = {"codes": partial(_draw, compiled.create_infer_request(), setup)}
    return f"OpenVINO {ov.__version__}", workloads


def _draw(request: Any, setup: Setup) -> Run:
    """Decode an image's codes and return the times."""
    prompt, image = codes(setup)
    request.reset_state()
    began, ends_ms = time.perf_counter(), []
    _infer(request, np.tile(prompt, (ROWS, 1)), 0)
    for position, code in enumerate(image[:-1], len(prompt)):
        ends_ms.append((time.perf_counter() - began) * 1e3)
        _infer(request, np.full((ROWS, 1), code), position)
    ends_ms.append((time.perf_counter() - began) * 1e3)
    return Run(total_ms=ends_ms[-1], step_ends_ms=tuple(ends_ms))


def _infer(request: Any, ids: np.ndarray, start: int) -> None:
    """Run the model on ids at the positions from ``start`` on."""
    positions = np.tile(np.arange(start, start + ids.shape[1]), (ROWS, 1))
    rows = np.arange(ROWS, dtype=np.int32)
    found = request.infer({"ids": ids, "positions": positions, "beam_idx": rows})
    assert np.isfinite(found["logits"]).all()


@torch.no_grad()
def _compressed(group: int) -> Any:
    """Return the converted model with random weights, compressed to int4."""
    torch.manual_seed(SEED)
    model = LanguageModel(CONFIG).eval()
    for name, value in model.named_parameters():
        if "norm" not in name:
            value.normal_(0, 0.02)
    past = [torch.zeros(ROWS, HEADS, 3, HIDDEN // HEADS) for _ in range(2 * LAYERS)]
    names = [f"{part}_{i}" for i in range(LAYERS) for part in "kv"]
    example = (torch.zeros(ROWS, 2, dtype=torch.int64), torch.tensor([[3, 4]] * ROWS), *past)
    made = ov.convert_model(_Step(model), example_input=example)
    for port, name in zip(made.inputs, ("ids", "positions", *names), strict=True):
        port.get_tensor().set_names({name})
        shape = [-1, HEADS, -1, HIDDEN // HEADS] if name in names else [-1, -1]
        port.get_node().set_partial_shape(ov.PartialShape(shape))
    for port, name in zip(made.outputs, ("logits", *(f"new_{n}" for n in names)), strict=True):
        port.get_tensor().set_names({name})
    made.validate_nodes_and_infer_types()
    _reorder(made, names)
    apply_make_stateful_transformation(made, {name: f"new_{name}" for name in names})
    _start_empty(made)
    return nncf.compress_weights(
        made, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=group, all_layers=True
    )


def _reorder(model: Any, names: list[str]) -> None:
    """Read keys and values through beam indices: the pattern that the plugin looks for."""
    beams = opset13.parameter(ov.PartialShape([-1]), np.int32, name="beam_idx")
    beams.output(0).get_tensor().add_names({"beam_idx"})
    model.add_parameters([beams])
    for name in names:
        port = model.input(name)
        readers = port.get_target_inputs()
        chosen = opset13.gather(port, beams, opset13.constant(0, np.int64))
        for reader in readers:
            reader.replace_source_output(chosen.output(0))
    model.validate_nodes_and_infer_types()


def _start_empty(model: Any) -> None:
    """Start keys and values with no positions, and as many rows as there are ids."""
    rows = opset13.gather(
        opset13.shape_of(model.input("ids")), opset13.constant([0]), opset13.constant(0)
    )
    sizes = [rows, *(opset13.constant([size]) for size in (HEADS, 0, HIDDEN // HEADS))]
    empty = opset13.broadcast(opset13.constant(np.float32(0)), opset13.concat(sizes, axis=0))
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([empty])
    model.validate_nodes_and_infer_types()


PEERS: Peers = {
    "codes": {
        "OpenVINO int4, groups of 128": partial(open_openvino, group=128),
        "OpenVINO int4, groups of 32": partial(open_openvino, group=32),
    }
}
