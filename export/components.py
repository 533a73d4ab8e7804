"""The components of a Janus: which module computes each, on which inputs, checked against what.

Every component is torch (the reference) and ONNX (what is exported); tables are looked up.
"""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn

from janus_edge.export.component import Component, Feeds, relative_error
from janus_edge.export.decoder import decoder_component
from janus_edge.export.graph import IR_VERSION, OPSET, Graph, info
from janus_edge.model.janus import Janus
from janus_edge.model.weights import Checkpoint, loaded


def graph_components(checkpoint: Checkpoint, max_length: int) -> list[Component]:
    """All graphs of an autoregressive Janus for caches of ``max_length`` positions."""
    model = checkpoint.model
    config, vq = model.config, model.gen_vision_model
    side, book = config.vision.image_size, config.codebook.size
    hidden, image, codes = (config.language.hidden_size,), (3, side, side), (config.num_codes,)
    features = (config.vision.num_patches, config.vision.width)
    see, align, draw = model.vision_model, model.aligner, model.gen_head
    return [
        _one("vision_encoder", "vision_model.", see, see, "pixels", image, "features", "B"),
        _one("vision_aligner", "aligner.", align, align, "features", features, "embeds", "B"),
        decoder_component(checkpoint, max_length),
        _text_head(model),
        _one("image_head", "gen_head.", draw, model.image_logits, "hidden", hidden, "logits", "R"),
        _one("image_decoder", _VQ, vq, vq.decode, "codes", codes, "pixels", "B", below=book),
        _image_encoder(model, image),
    ]


_VQ = "gen_vision_model."


def _one(
    name: str,
    parameters: str,
    owner: nn.Module,
    function: Callable[[Tensor], Tensor],
    input_name: str,
    shape: tuple[int, ...],
    output_name: str,
    batch: str,
    *,
    below: int | None = None,
    reference: Callable[[Tensor], Tensor] | None = None,
    error: Callable[[np.ndarray, np.ndarray], float] = relative_error,
) -> Component:
    """A component of one input and one output, exported by PyTorch.

    below: makes the input integers under it. reference: what its output is held against, if not
    the function's.
    """

    def example(size: int) -> Feeds:
        rng = np.random.default_rng(size)
        if below is None:
            return {input_name: rng.uniform(-1, 1, (size, *shape)).astype(np.float32)}
        return {input_name: rng.integers(0, below, (size, *shape))}

    def build(_data: Path | None) -> onnx.ModelProto:
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

    def references(examples: list[Feeds]) -> list[list[np.ndarray]]:
        compute = reference or function
        with torch.no_grad():
            return [[compute(torch.from_numpy(feeds[input_name])).numpy()] for feeds in examples]

    return Component(
        name=name,
        outputs=(output_name,),
        profile={batch: (1, 2 if batch == "R" else 1, 16 if batch == "R" else 8)},
        parameters=(parameters,),
        build=build,
        examples=lambda: [example(1), example(2)],
        references=references,
        error=error,
    )


def _text_head(model: Janus) -> Component:
    """Hidden states to vocabulary logits: one product, the largest of all."""
    config, name = model.config.language, "text_head"
    plain = _one(
        name,
        "language_model.lm_head.",
        model,
        model.text_logits,
        "hidden",
        (config.hidden_size,),
        "logits",
        "R",
    )

    def build(data: Path | None) -> onnx.ModelProto:
        graph = Graph(data)
        graph.linear("hidden", "logits", model.language_model.lm_head.weight)
        return graph.model(
            name,
            [info("hidden", TensorProto.FLOAT, ["R", config.hidden_size])],
            [info("logits", TensorProto.FLOAT, ["R", config.vocab_size])],
        )

    return dataclasses.replace(
        plain, build=build, num_weights=model.language_model.lm_head.weight.numel()
    )


def _image_encoder(model: Janus, image: tuple[int, ...]) -> Component:
    """Pixels to codes. Two codes may be equally near: what counts is how much farther the chosen
    one is than the nearest."""
    vq = model.gen_vision_model

    def distances(pixels: Tensor) -> Tensor:
        return vq.quantize.distances(vq.latent(pixels))

    return _one(
        "image_encoder",
        _VQ,
        vq,
        vq.encode,
        "pixels",
        image,
        "codes",
        "B",
        reference=distances,
        error=code_error,
    )


def code_error(codes_BN: np.ndarray, distances_BNK: np.ndarray) -> float:
    """How much farther the farthest-off code is than the nearest, over the largest distance."""
    if codes_BN.shape != distances_BNK.shape[:2]:
        return float("inf")
    chosen = np.take_along_axis(distances_BNK, codes_BN[..., None], axis=-1)[..., 0]
    span = float(distances_BNK.max() - distances_BNK.min())
    return float((chosen - distances_BNK.min(axis=-1)).max()) / max(span, 1e-12)


def tables(checkpoint: Checkpoint) -> Iterator[tuple[str, np.ndarray]]:
    """The look-ups: token embeddings (V, D), aligned code embeddings (K, D)."""
    model = checkpoint.model
    with loaded(checkpoint, "language_model.model.embed_tokens."):
        yield "text_embed", model.language_model.model.embed_tokens.weight.detach().numpy()
    with loaded(checkpoint, "gen_embed.", "gen_aligner."), torch.no_grad():
        every = torch.arange(model.config.codebook.size)
        yield "code_embed", model.embed_codes(every).numpy()


class _Call(nn.Module):
    """A module around one function of tensors, for the exporter."""

    def __init__(self, owner: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.owner, self.function = owner, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


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
