"""The scales of 8-bit KV caches, one per channel of a head, from how large keys and values become.

The decoder runs what it will be used for: images with their prompt, half of them also without it,
and a question about an image. If the checkpoint has samples, these are images of its own kind, else
random codes or latents. Layers are loaded one at a time.

Shapes: R rows, T time, D width, G key-value heads, M cache length, E head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from janus_edge.export.bundle.preview import DecodedSamples
from janus_edge.export.bundle.samples import samples
from janus_edge.model.config import LanguageConfig
from janus_edge.model.janus import Janus
from janus_edge.model.janusflow import JanusFlow
from janus_edge.model.language import DecoderLayer, LayerCache, rope
from janus_edge.model.weights import Checkpoint, loaded
from janus_edge.runtime.prompt import PromptEncoder, PromptTemplate

_PROMPT = "a photo of two red circles left of a large blue star on a white background"
_QUESTION = "describe the picture."
_TIMES = (0.0, 0.25, 0.5, 0.9)  # t of a flow
_LARGEST = 127
# Values can become larger than those seen here, and a clipped value costs far more than coarser
# steps (docs/quantization.md).
_MARGIN = 2.0


@dataclass(frozen=True, kw_only=True)
class CacheScales:
    """The scales of a layer's KV cache.

    Attributes:
        keys_G1E: Per channel of the keys, float32.
        values_G1E: Per channel of the values, float32.
    """

    keys_G1E: Tensor
    values_G1E: Tensor

    @classmethod
    def none(cls) -> CacheScales:
        """Return scales of 1, for a cache that is not quantized."""
        return cls(keys_G1E=torch.ones(1, 1, 1), values_G1E=torch.ones(1, 1, 1))


class QuantizedCache(LayerCache):
    """A KV cache whose positions are fake-quantized when they are written, like the engine's."""

    def __init__(self, keys_RGME: Tensor, values_RGME: Tensor, scales: CacheScales) -> None:
        """Take empty caches and their scales."""
        super().__init__(keys_RGME, values_RGME)
        self._scales = scales

    def write(self, at_RGTE: Tensor, k_RGTE: Tensor, v_RGTE: Tensor) -> tuple[Tensor, Tensor]:
        """Write fake-quantized keys and values; see the base class."""
        k_RGTE = _rounded(k_RGTE, self._scales.keys_G1E)
        return super().write(at_RGTE, k_RGTE, _rounded(v_RGTE, self._scales.values_G1E))


def _rounded(x_RGTE: Tensor, scale_G1E: Tensor) -> Tensor:
    return (x_RGTE / scale_G1E).round().clamp(-_LARGEST - 1, _LARGEST) * scale_G1E


class CacheCalibration:
    """What the decoder is used for, on its way through the layers: how large its caches become."""

    def __init__(self, config: LanguageConfig, known: Sequence[Tensor]) -> None:
        """Begin before the first layer.

        Args:
            config: Of the language model.
            known: What the decoder is used for, see ``sequences``.
        """
        self._xs, self._config = list(known), config

    @torch.no_grad()
    def add_layer(self, layer: DecoderLayer) -> CacheScales:
        """Compute the next layer; return the scales of its cache."""
        config = self._config
        peaks = torch.zeros(2, config.num_key_value_heads, config.head_dim)
        for i, x_RTD in enumerate(self._xs):
            rows, time, _ = x_RTD.shape
            empty = torch.zeros(rows, config.num_key_value_heads, time, config.head_dim)
            cache = LayerCache(empty, empty.clone())
            positions = torch.arange(time)[None].expand(rows, -1)
            causal = torch.ones(time, time, dtype=torch.bool).tril()
            with _fast_matmuls():
                self._xs[i] = layer(x_RTD, *rope(config, positions), causal, cache, positions)
            seen = torch.stack([_at_any_position(cache.keys_RGME), cache.values_RGME.abs()])
            peaks = torch.maximum(peaks, seen.amax(dim=(1, 3)))
        scales = (peaks * _MARGIN / _LARGEST).clamp_min(1e-6)[:, :, None]
        return CacheScales(keys_G1E=scales[0], values_G1E=scales[1])


@contextmanager
def _fast_matmuls() -> Iterator[None]:
    """Let oneDNN compute matmuls inside the block; it may use bf16.

    The largest values need no more. Its float32 matmuls took 0.55 of MKL's time on an AMD processor
    (docs/log.md).
    """
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "bf16"
        yield
    finally:
        matmul.fp32_precision = before


def cache_scales(checkpoint: Checkpoint) -> list[CacheScales]:
    """Return the scales of every layer's cache."""
    config = checkpoint.model.config.language
    known = sequences(checkpoint, DecodedSamples(checkpoint))
    calibration, found = CacheCalibration(config, known), []
    for index, layer in enumerate(checkpoint.model.language_model.model.layers):
        assert isinstance(layer, DecoderLayer)
        with loaded(checkpoint, f"language_model.model.layers.{index}."):
            found.append(calibration.add_layer(layer))
    return found


def _at_any_position(keys_RGTE: Tensor) -> Tensor:
    """Return how large rotated keys can become: positions rotate pairs of channels."""
    one, other = keys_RGTE.chunk(2, dim=-1)
    return torch.hypot(one, other).repeat(1, 1, 1, 2)


@torch.no_grad()
def sequences(checkpoint: Checkpoint, decoded: DecodedSamples) -> list[Tensor]:
    """Return what the decoder is used for, embedded (R, T, D): images, then a question.

    Args:
        checkpoint: The checkpoint.
        decoded: Its samples as images; the question is about the first.
    """
    model = checkpoint.model
    assert checkpoint.prompt is not None
    template = PromptTemplate(**checkpoint.prompt)
    encoder = PromptEncoder.load(checkpoint.tokenizer_json, template)
    ids_T = encoder.generation(_PROMPT)
    if isinstance(model, Janus):
        drawn = _codes(checkpoint, model)
        half = drawn[: (len(drawn) + 1) // 2]
        drawings = (ids_T, drawn), (encoder.unconditional(ids_T), half)
    else:
        drawn = _latents(checkpoint, model)
        drawings = (ids_T[:-1], drawn), (ids_T[:1], drawn)  # t's vector ends each
    with loaded(checkpoint, "language_model.model.embed_tokens."):
        prompted = [
            (model.embed_text(torch.from_numpy(row_T)[None]).repeat(len(images), 1, 1), images)
            for row_T, images in drawings
        ]
        asked = torch.from_numpy(encoder.question(_QUESTION, model.config.vision.num_patches))
        ids, pixels = encoder.ids["image_placeholder"], decoded.first_B3HW
        with loaded(checkpoint, "vision_", "aligner.", "beg_of_und_embed"):
            question = model.embed_prompt(asked[None], pixels, ids)
    return [*(torch.cat(each, dim=1) for each in prompted), question]


def _codes(checkpoint: Checkpoint, model: Janus) -> Tensor:
    """Return images' codes as the decoder gets them (P, N, D)."""
    codes_PN = samples(checkpoint)[: 2 if checkpoint.samples is None else 8]
    with loaded(checkpoint, "gen_embed.", "gen_aligner."):
        return model.embed_codes(codes_PN)


def _latents(checkpoint: Checkpoint, model: JanusFlow) -> Tensor:
    """Return t's vector and a latent's tokens at several times (R, N + 1, D)."""
    latent_1ZHW = samples(checkpoint)[:1]
    t_R = torch.tensor(_TIMES)
    noise = torch.randn(latent_1ZHW.shape, generator=torch.Generator().manual_seed(0))
    z_RZHW = t_R[:, None, None, None] * latent_1ZHW + (1 - t_R[:, None, None, None]) * noise
    with loaded(checkpoint, "vision_gen_enc_"):
        tokens_RND, t_RD, _ = model.encode_latent(z_RZHW, t_R)
    return torch.cat((t_RD[:, None], tokens_RND), dim=1)
