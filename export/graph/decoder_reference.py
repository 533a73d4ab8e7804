"""What PyTorch computes for a decoder's examples, layer by layer: exactly, or as if quantized."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from janus_edge.export.graph.component import Feeds
from janus_edge.export.quantization.calibrate import CacheScales, QuantizedCache
from janus_edge.model.config import LanguageConfig
from janus_edge.model.language import DecoderLayer, LayerCache, rope
from janus_edge.runtime.kv_cache import past_names


def decoder_examples(
    config: LanguageConfig, known_RTD: np.ndarray, length: int, cached: str
) -> list[Feeds]:
    """Return a prefill, a step after it, a step of a single row, and positions after a gap.

    Their embeddings are of the kind that the decoder will see, as keys and values of others go
    beyond a calibrated cache.

    Args:
        config: Of the language model.
        known_RTD: What the decoder is used for, embedded.
        length: Positions of the caches.
        cached: Dtype of the caches.
    """
    rng, middle = np.random.default_rng(0), length // 2

    def example(rows: int, past: int, time: int, gap: int = 0) -> Feeds:
        shape = (rows, config.num_key_value_heads, length, config.head_dim)
        feeds: Feeds = {
            "embeds": known_RTD[:rows].take(range(past, past + time), 1, mode="wrap"),
            "positions": np.tile(gap + np.arange(past, past + time), (rows, 1)),
            "lengths": np.full(rows, past + time),
        }
        for name in past_names(config.num_hidden_layers):
            cache = rng.standard_normal(shape, np.float32)
            if cached == "int8":
                cache = np.rint(cache * 20)  # below 127
            cache[:, :, past:] = 0
            feeds[name] = cache.astype(cached)
        return feeds

    return [
        example(2, 0, middle),
        example(2, middle, 1),
        example(1, middle - 1, 1),
        example(1, 1, middle // 2, gap=middle // 4),
    ]


class DecoderReference:
    """PyTorch's outputs for the examples, made layer by layer."""

    def __init__(
        self, config: LanguageConfig, examples: list[Feeds], *, quantizes_cache: bool
    ) -> None:
        """Begin before the first layer.

        Args:
            config: The language model's.
            examples: The inputs.
            quantizes_cache: Fake-quantize what is written to int8 caches.
        """
        self._config, self._examples, self._quantizes = config, examples, quantizes_cache
        self._xs = [torch.from_numpy(feeds["embeds"]) for feeds in examples]
        self._caches: list[list[np.ndarray]] = [[] for _ in examples]
        self._names = past_names(config.num_hidden_layers)

    @torch.no_grad()
    def add_layer(self, index: int, layer: DecoderLayer, scales: CacheScales | None) -> None:
        """Compute the next layer.

        Args:
            index: The layer.
            layer: The layer's module, loaded.
            scales: Of its int8 cache; None if the cache is float32.
        """
        own = scales or CacheScales.none()
        steps = own.keys_G1E, own.values_G1E
        for i, feeds in enumerate(self._examples):
            keys, values = (
                torch.from_numpy(feeds[name].astype(np.float32)) * step
                for name, step in zip(self._names[2 * index :], steps, strict=False)
            )
            cache = LayerCache(keys, values)
            if self._quantizes and scales:
                cache = QuantizedCache(keys, values, own)
            turn = rope(self._config, torch.from_numpy(feeds["positions"]))
            slots = _slots(feeds)
            mask = (torch.arange(keys.shape[2]) <= slots[..., None])[:, None]
            self._xs[i] = layer(self._xs[i], *turn, mask, cache, slots)
            self._caches[i] += [
                (each / step).numpy() for each, step in zip((keys, values), steps, strict=True)
            ]

    @torch.no_grad()
    def finish(self, norm: nn.RMSNorm) -> list[list[np.ndarray]]:
        """Return each example's outputs: hidden states, then caches.

        Caches are in units of their scales; the numbers need not be whole.

        Args:
            norm: The decoder's last norm.
        """
        ends = zip(self._xs, self._caches, strict=True)
        return [[norm(x).numpy(), *caches] for x, caches in ends]


def _slots(feeds: Feeds) -> torch.Tensor:
    """Return where in the caches new positions are written, (R, T): after all valid positions.

    That is not at their own numbers if those leave a gap.
    """
    time = feeds["embeds"].shape[1]
    return torch.from_numpy(feeds["lengths"][:, None] - time + np.arange(time))
