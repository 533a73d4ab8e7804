"""The components of each family: its module, its inputs, and what it is checked against.

Every component is torch (the reference) and ONNX (what is exported); tables are looked up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import torch
from onnx import TensorProto
from tokenizers import Tokenizer
from torch import nn

from janus_edge.export.bundle.preview import DecodedSamples
from janus_edge.export.graph.beside import (
    WIDE,
    biases_beside,
    codes_beside,
    fits_codes,
    fits_latents,
    fits_vision,
    latents_beside,
    linear_weights,
    vision_beside,
)
from janus_edge.export.graph.builder import Graph, info
from janus_edge.export.graph.component import Component
from janus_edge.export.graph.decoder import decoder_components
from janus_edge.export.graph.lowering import LOWERINGS
from janus_edge.export.graph.traced import Input, traced
from janus_edge.export.quantization.presets import PRESETS, Preset
from janus_edge.export.quantization.quantize import Packer, QuantSpec
from janus_edge.model.janus import Janus
from janus_edge.model.janusflow import JanusFlow
from janus_edge.model.vision import VisionModel
from janus_edge.model.weights import Checkpoint, Model, loaded
from janus_edge.runtime.prompt import TOKEN_STRINGS

_VQ = "gen_vision_model."


def graph_components(
    checkpoint: Checkpoint,
    max_length: int,
    preset: Preset = PRESETS["fp32"],
    *,
    image_encoder: bool = False,
    decoded: DecodedSamples | None = None,
) -> list[Component]:
    """Return all graphs of a model.

    Args:
        checkpoint: Of the model.
        max_length: Positions of the KV cache at most.
        preset: How weights are stored.
        image_encoder: Whether a Janus' image encoder (images to codes) is among them; nothing
            needs it yet.
        decoded: The checkpoint's samples as images; None: they are decoded when they are needed.
    """
    model, decoded = checkpoint.model, decoded or DecodedSamples(checkpoint)
    shared = [
        *decoder_components(checkpoint, max_length, preset, decoded),
        _text_head(model, preset),
    ]
    if isinstance(model, JanusFlow):
        see, align = "vision_und_enc_model", "vision_und_enc_aligner"
        return [*_vision(model, see, align, preset), *shared, *_flow(model, preset)]
    return [
        *_vision(model, "vision_model", "aligner", preset),
        *shared,
        _image_head(model, preset),
        _image_decoder(model, preset, decoded),
        *([_image_encoder(model)] if image_encoder else []),
    ]


def _vision(model: Model, encoder: str, aligner: str, preset: Preset) -> list[Component]:
    """Return two components: pixels to patch features, and those to vectors of placeholders."""
    config, spec = model.config.vision, preset.vision_and_flow
    see, align = model.get_submodule(encoder), model.get_submodule(aligner)
    pixels = Input(name="pixels", shape=(3, config.image_size, config.image_size))
    features = Input(name="features", shape=(config.num_patches, config.width))
    is_listed = spec is not None and preset.lowering == "onnxruntime" and fits_vision(config)
    is_listed = is_listed and isinstance(see, VisionModel)

    def part(name: str, of: str, module: nn.Module, given: Input, output: str) -> Component:
        return traced(
            name,
            (f"{of}.",),
            module,
            module,
            (given,),
            (output,),
            spec=WIDE if is_listed else spec,
            lowering=preset.lowering,
            layers=partial(linear_weights, module, "vision_tower.") if is_listed else None,
        )

    sees = part("vision_encoder", encoder, see, pixels, "features")
    aligns = part("vision_aligner", aligner, align, features, "embeds")
    if not is_listed:
        return [sees, aligns]
    sizes = {"heads": config.heads, "patch_size": config.patch_size}
    sees = dataclasses.replace(
        sees,
        beside=partial(vision_beside, cast(VisionModel, see).vision_tower),
        constants={**sizes, "epsilon": config.layer_norm_eps},
    )
    return [sees, dataclasses.replace(aligns, beside=partial(biases_beside, align))]


def _text_head(model: Model, preset: Preset) -> Component:
    """Return hidden states to vocabulary logits: one matmul, the largest of all."""
    head = model.language_model.lm_head

    def build(graph: Graph) -> None:
        graph.linear("hidden", "logits", head.weight)

    parameters = ("language_model.lm_head.",)
    return _head("text_head", parameters, model, head, build, preset.text_head, preset.lowering)


def _image_head(model: Janus, preset: Preset) -> Component:
    """Return hidden states to code logits: two layers."""
    head = model.gen_head

    def build(graph: Graph) -> None:
        inner, outer = head.output_mlp_projector, head.vision_head
        wide = graph.linear("hidden", "projected", inner.weight, inner.bias)
        graph.linear(graph.node("Gelu", [wide], ["gelu"]), "logits", outer.weight, outer.bias)

    parameters = ("gen_head.",)
    return _head("image_head", parameters, model, head, build, preset.image_head, preset.lowering)


def _head(
    name: str,
    parameters: tuple[str, ...],
    model: Model,
    head: nn.Module,
    fill: Callable[[Graph], None],
    spec: QuantSpec | None,
    lowering: str,
) -> Component:
    """Return hidden states (R, D) to logits (R, V); ``fill`` adds the nodes between the two."""
    width = model.config.language.hidden_size
    hidden = Input(name="hidden", shape=(width,))
    outputs = ("logits",)
    packer = Packer()
    plain = traced(
        name, parameters, head, head, (hidden,), outputs, batch="R", spec=spec, packer=packer
    )

    # the CPU kernels run it
    is_listed = spec == QuantSpec(bits=8, block_size=32) and lowering == "onnxruntime"

    def build(data: Path | None) -> onnx.ModelProto:
        graph = Graph(LOWERINGS[lowering], data, spec, packer, tiled=is_listed)
        fill(graph)
        sizes = [m.out_features for m in head.modules() if isinstance(m, nn.Linear)]
        return graph.model(
            name,
            [info("hidden", TensorProto.FLOAT, ["R", width])],
            [info("logits", TensorProto.FLOAT, ["R", sizes[-1]])],
        )

    return dataclasses.replace(
        plain,
        build=build,
        num_weights=sum(p.numel() for p in head.parameters()),
        is_listed=is_listed,
    )


def _image_decoder(model: Janus, preset: Preset, decoded: DecodedSamples) -> Component:
    """Codes to pixels, by a Janus' VQ decoder."""
    vq, config = model.gen_vision_model, model.config
    codes = Input(name="codes", shape=(config.num_codes,), below=config.codebook.size)
    ranges = (lambda: decoded.ranges) if preset.convolutions else None
    made = traced("image_decoder", (_VQ,), vq, vq.decode, (codes,), ("pixels",), ranges=ranges)
    if not (preset.convolutions and preset.lowering == "onnxruntime"):
        return made
    if not fits_codes(config.codebook):
        return made
    constants: dict[str, float] = {"groups": config.codebook.num_groups}
    beside = partial(codes_beside, vq)
    return dataclasses.replace(made, is_listed=True, beside=beside, constants=constants)


def _latent_decoder(model: JanusFlow, latent: Input, preset: Preset) -> Component:
    """Latents to pixels, by a JanusFlow's autoencoder. Its graph's weights are not quantized."""
    vae, names = model.vae, ("vae.decoder.", "vae.post_quant_conv.")
    made = traced("image_decoder", names, vae, vae.to_pixels, (latent,), ("pixels",))
    if not (preset.convolutions and preset.lowering == "onnxruntime" and fits_latents(vae.config)):
        return made
    constants: dict[str, float] = {"groups": vae.config.norm_num_groups}
    beside = partial(latents_beside, vae)
    return dataclasses.replace(made, is_listed=True, beside=beside, constants=constants)


def _image_encoder(model: Janus) -> Component:
    """Return pixels to codes.

    Two codes may be equally near, so the error is how much farther the chosen one is.
    """
    vq, side = model.gen_vision_model, model.config.vision.image_size
    return traced(
        "image_encoder",
        (_VQ,),
        vq,
        vq.encode,
        (Input(name="pixels", shape=(3, side, side)),),
        ("codes",),
        reference=vq.distances,
        error=code_error,
    )


def _flow(model: JanusFlow, preset: Preset) -> list[Component]:
    """Return what runs around the decoder in each step of a flow, and the VAE's decoder."""
    size = model.latent_size
    latent = Input(name="latent", shape=(model.config.flow.latent_channels, size, size))
    return [
        _flow_encoder(model, latent, preset),
        _flow_decoder(model, preset),
        _latent_decoder(model, latent, preset),
    ]


def _flow_encoder(model: JanusFlow, latent: Input, preset: Preset) -> Component:
    """Return a latent and t to the decoder's tokens, t's vector, and a skip connection."""
    return traced(
        "flow_encoder",
        ("vision_gen_enc_",),
        nn.ModuleList([model.vision_gen_enc_model, model.vision_gen_enc_aligner]),
        model.encode_latent,
        (latent, Input(name="t", shape=(), least=0.0)),
        ("tokens", "time", "skip"),
        spec=preset.vision_and_flow,
        lowering=preset.lowering,
    )


def _flow_decoder(model: JanusFlow, preset: Preset) -> Component:
    """Return hidden states, with the skip connection and t's vector, to a velocity."""
    grid, width = model.latent_grid, model.config.language.hidden_size
    inputs = (
        Input(name="hidden", shape=(grid * grid, width)),
        Input(name="skip", shape=(model.config.flow.channels, grid, grid)),
        Input(name="time", shape=(width,)),
    )
    norm, aligner = model.vision_gen_dec_aligner_norm, model.vision_gen_dec_aligner
    return traced(
        "flow_decoder",
        ("vision_gen_dec_",),
        nn.ModuleList([norm, aligner, model.vision_gen_dec_model]),
        model.decode_velocity,
        inputs,
        ("velocity",),
        spec=preset.vision_and_flow,
        lowering=preset.lowering,
    )


def code_error(codes_BN: np.ndarray, distances_BNK: np.ndarray) -> float:
    """Return how much farther the worst chosen code is than the nearest, over the largest span.

    Args:
        codes_BN: The chosen codes.
        distances_BNK: From each cell to all codes.
    """
    if codes_BN.shape != distances_BNK.shape[:2]:
        return float("inf")
    chosen = np.take_along_axis(distances_BNK, codes_BN[..., None], axis=-1)[..., 0]
    span = float(distances_BNK.max() - distances_BNK.min())
    return float((chosen - distances_BNK.min(axis=-1)).max()) / max(span, 1e-12)


def tables(checkpoint: Checkpoint) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the look-up tables by name.

    They are the token embeddings (V, D), and for a Janus the aligned code embeddings (K, D).
    """
    model = checkpoint.model
    with loaded(checkpoint, "language_model.model.embed_tokens.", "beg_of_und_embed"):
        yield "text_embed", _text_table(checkpoint)
    if isinstance(model, Janus):
        with loaded(checkpoint, "gen_embed.", "gen_aligner."), torch.no_grad():
            every = torch.arange(model.config.codebook.size)
            yield "code_embed", model.embed_codes(every).numpy()


def _text_table(checkpoint: Checkpoint) -> np.ndarray:
    """Return the token embeddings (V, D).

    A JanusFlow's begin-of-image token stands only before images that are shown. So the vector that
    the model has learned for that place becomes the token's own.
    """
    model = checkpoint.model
    table_VD = model.language_model.model.embed_tokens.weight.detach().numpy()
    if isinstance(model, JanusFlow):
        tokenizer = Tokenizer.from_str(checkpoint.tokenizer_json)
        table_VD = table_VD.copy()
        begin = tokenizer.token_to_id(TOKEN_STRINGS["begin_of_image"])
        table_VD[begin] = model.beg_of_und_embed.detach().numpy()[0]
    return table_VD
