"""The decoder as a component: its layers are read once, and everything is made of each in turn.

Calibration of the cache, the graph, PyTorch's exact answer and its fake-quantized one take a layer
while it is loaded: a checkpoint's weights need not fit into memory, and none is quantized twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from janus_edge.export.bundle.preview import DecodedSamples
from janus_edge.export.graph.component import Component, Feeds, Ranges
from janus_edge.export.graph.decoder_graph import PREFIX, DecoderGraph
from janus_edge.export.graph.decoder_reference import DecoderReference, decoder_examples
from janus_edge.export.graph.lowering import LOWERINGS
from janus_edge.export.quantization.calibrate import CacheCalibration, CacheScales, sequences
from janus_edge.export.quantization.presets import PRESETS, Preset
from janus_edge.export.quantization.quantize import Packer, QuantSpec, fake_quantized
from janus_edge.model.language import DecoderLayer
from janus_edge.model.weights import Checkpoint, loaded
from janus_edge.runtime.kv_cache import present_names
from janus_edge.runtime.manifest import PREFILL

PROMPT_LENGTH = 640  # positions: an image that is asked about or drawn by a flow, and some text
CHECKED_LENGTH = 64  # the most positions of the caches that parity is checked with


def decoder_components(
    checkpoint: Checkpoint,
    max_length: int,
    preset: Preset = PRESETS["fp32"],
    decoded: DecodedSamples | None = None,
) -> list[Component]:
    """Return the decoder, and its copy for prefill if the preset has one.

    The copy has the same inputs, outputs and caches.

    Args:
        checkpoint: The checkpoint.
        max_length: The most positions of the caches.
        preset: How weights and caches are stored.
        decoded: The checkpoint's samples as images; None: they are decoded when they are needed.
    """
    scales: list[CacheScales] = []
    decoded = decoded or DecodedSamples(checkpoint)
    kinds = [("decoder", preset.decoder), (PREFILL, preset.prefill)]
    return [
        _component(name, _Export(checkpoint, max_length, preset, spec, scales, decoded))
        for name, spec in (kinds if preset.prefill else kinds[:1])
    ]


@dataclass
class _Export:
    """One decoder on its way into a bundle.

    Attributes:
        checkpoint: What it is made of.
        max_length: Positions of the KV cache at most.
        preset: Says the cache's dtype and the lowering.
        spec: How weights are quantized; None: not at all.
        scales: Of each layer's int8 cache; filled by the first export that computes them.
        decoded: The checkpoint's samples as images.
    """

    checkpoint: Checkpoint
    max_length: int
    preset: Preset
    spec: QuantSpec | None
    scales: list[CacheScales]
    decoded: DecodedSamples
    _known: dict[bool, list[list[np.ndarray]]] = field(default_factory=dict)

    @cached_property
    def examples(self) -> list[Feeds]:
        """What parity is checked with."""
        length = min(self.max_length, CHECKED_LENGTH)
        config, known_RTD = self.checkpoint.model.config.language, self._sequences[0].numpy()
        return decoder_examples(config, known_RTD, length, self.preset.cache)

    @cached_property
    def _sequences(self) -> list[Tensor]:
        """What the decoder is used for: an image is encoded for it, once."""
        return sequences(self.checkpoint, self.decoded)

    @property
    def is_quantized(self) -> bool:
        """True if weights or caches are quantized."""
        return self.spec is not None or self.preset.cache != "float32"

    @property
    def is_listed(self) -> bool:
        """True if the CPU kernels run it."""
        in_blocks = self.spec == QuantSpec(bits=4, block_size=128)
        return in_blocks and (self.preset.cache, self.preset.lowering) == ("int8", "onnxruntime")

    def build(self, data: Path | None) -> onnx.ModelProto:
        """Return the graph, and keep PyTorch's answers to the examples. data: see ``Graph``."""
        config = self.checkpoint.model.config.language
        lowering, packer = LOWERINGS[self.preset.lowering], Packer()
        graph = DecoderGraph(
            config, self.max_length, lowering, data, self.spec, packer, self.is_listed
        )
        answers = {kind: self._begin(self.examples, kind) for kind in self._kinds()}
        for index, layer, scales in self._layers():
            graph.add_layer(index, layer, scales)
            for kind, answer in answers.items():
                with fake_quantized(layer, self.spec if kind else None, packer):
                    answer.add_layer(index, layer, scales)
            packer.forget()
        with loaded(self.checkpoint, f"{PREFIX}norm."):
            norm = self.checkpoint.model.language_model.model.norm
            self._known = {kind: answer.finish(norm) for kind, answer in answers.items()}
            return graph.finish(norm)

    def references(
        self, examples: list[Feeds], fake_quantize: bool = False
    ) -> list[list[np.ndarray]]:
        """Return PyTorch's outputs for examples, known already for those of ``build``."""
        is_exact = not torch.is_autocast_enabled("cpu")  # else half precision is asked about
        if examples is self.examples and fake_quantize in self._known and is_exact:
            return self._known[fake_quantize]
        answer = self._begin(examples, fake_quantize)
        for index, layer, scales in self._layers():
            with fake_quantized(layer, self.spec if fake_quantize else None):
                answer.add_layer(index, layer, scales)
        with loaded(self.checkpoint, f"{PREFIX}norm."):
            return answer.finish(self.checkpoint.model.language_model.model.norm)

    def _kinds(self) -> tuple[bool, ...]:
        return (False, True) if self.is_quantized else (False,)

    def _begin(self, examples: list[Feeds], fake_quantize: bool) -> DecoderReference:
        config = self.checkpoint.model.config.language
        return DecoderReference(config, examples, quantizes_cache=fake_quantize)

    def _layers(self) -> Iterator[tuple[int, DecoderLayer, CacheScales | None]]:
        """Yield each layer while it is loaded, with the scales of its int8 cache."""
        is_int8 = self.preset.cache == "int8"
        config, calibration = self.checkpoint.model.config.language, None
        if is_int8 and not self.scales:
            calibration = CacheCalibration(config, self._sequences)
        found: list[CacheScales] = []
        for index, layer in enumerate(self.checkpoint.model.language_model.model.layers):
            assert isinstance(layer, DecoderLayer)
            with loaded(self.checkpoint, f"{PREFIX}layers.{index}."):
                if calibration is not None:
                    found.append(calibration.add_layer(layer))
                known = found if calibration is not None else self.scales
                yield index, layer, known[index] if is_int8 else None
        if calibration is not None:
            self.scales[:] = found


def _component(name: str, made: _Export) -> Component:
    checkpoint, max_length = made.checkpoint, made.max_length
    config = checkpoint.model.config.language
    weights = (
        parameter.numel()
        for name, parameter in checkpoint.model.named_parameters()
        if name.startswith(f"{PREFIX}layers.")
    )
    return Component(
        name=name,
        outputs=("hidden", *present_names(config.num_hidden_layers)),
        profile={"R": (1, 2, 16), "T": (1, 1, max_length), "M": (1, max_length, max_length)},
        uses=_uses(max_length),
        parameters=(),
        cuts=tuple(f"layers.{i}" for i in range(3, config.num_hidden_layers - 1, 4)),
        num_weights=sum(weights),
        build=made.build,
        examples=lambda: made.examples,
        references=made.references,
        spec=made.spec,
        is_quantized=made.is_quantized,
        is_listed=made.is_listed,
    )


def _uses(max_length: int) -> dict[str, Ranges]:
    """Return the ranges of R, T and M: of a prompt or a flow's latent, and of a decode step."""
    rows, slots = (1, 2, 16), (max_length,) * 3
    lengths = {
        "prefill": (1, min(PROMPT_LENGTH, max_length), max_length),
        "step": (1, 1, 1),
    }
    return {name: {"R": rows, "T": length, "M": slots} for name, length in lengths.items()}
