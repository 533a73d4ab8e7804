"""The decode loops: prefill, then one code or token at a time.

This module knows no text, file, clock or print.

Shapes: B images, R rows (2B with guidance), T time, D width, V codes or tokens, N codes per image,
G key-value heads, M cache length, E head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from janus_edge.runtime import sampling
from janus_edge.runtime.backends import Engine
from janus_edge.runtime.kv_cache import KVCache
from janus_edge.runtime.sizes import Sizes
from janus_edge.runtime.tables import Rows

NOISE_BLOCK = 2**17  # numbers made at once; more would not fit into the second-level cache


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How codes or tokens are chosen.

    Attributes:
        temperature: 0 takes the largest logit.
        guidance_scale: Scale of classifier-free guidance, for images only; 1 turns it off.
        top_k: How many of the largest logits are kept; 0 keeps all.
        top_p: Sum of the probabilities that are kept, the likeliest first; 1 keeps all.
    """

    temperature: float
    guidance_scale: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    @property
    def guided(self) -> bool:
        """True if unconditional rows are needed. At scale 1 they would cancel out."""
        return self.guidance_scale != 1.0


# The bound call of ``look_ahead``, the embeddings and positions it reads, the states it writes.
_Ahead = tuple[Callable[[], None], np.ndarray, np.ndarray, np.ndarray]


class CachedDecoder:
    """The decoder with its KV caches: fixed buffers, written in place."""

    def __init__(
        self,
        engine: Engine,
        sizes: Sizes,
        rows: int,
        max_length: int,
        cache_type: str = "float32",
        prefill_engine: Engine | None = None,
    ) -> None:
        """Allocate the caches and bind the decode step.

        Args:
            engine: The engine for steps, and for prefill if ``prefill_engine`` is None.
            sizes: The sizes of the bundle.
            rows: Rows of the caches.
            max_length: Positions of the caches.
            cache_type: Dtype of the caches.
            prefill_engine: A copy of the decoder for many positions at once.

        Raises:
            DeviceError: A device has no room.
        """
        self._prefill_engine, self._rows = prefill_engine or engine, rows
        self._cache = KVCache.zeros(engine, sizes, rows, max_length, cache_type)
        self._step_embeds = np.zeros((rows, 1, sizes.hidden_size), np.float32)
        self._step_positions = np.zeros((rows, 1), np.int64)
        self._step_lengths = np.zeros(rows, np.int64)
        self._step_hidden = np.zeros_like(self._step_embeds)
        self._ahead: _Ahead | None = None
        self._call = self._bound(
            engine, self._step_embeds, self._step_positions, self._step_lengths, self._step_hidden
        )

    def prefill(self, embeds_RTD: np.ndarray, lengths_R: np.ndarray) -> np.ndarray:
        """Start over with prompts and return the hidden states (R, D) of their last positions.

        The cache's positions beyond a prompt's length are never attended to, and later steps
        overwrite them.

        Args:
            embeds_RTD: Embeddings of the prompts, padded on the right.
            lengths_R: The prompts' lengths without padding.
        """
        time = embeds_RTD.shape[1]
        positions = np.tile(np.arange(time), (self._rows, 1))
        hidden = np.empty_like(embeds_RTD)
        lengths = lengths_R.astype(np.int64)
        inputs = embeds_RTD, positions, lengths
        self._bound(self._prefill_engine, *inputs, hidden, often=False, last_only=True)()
        self._step_lengths[:] = lengths_R
        return hidden[np.arange(self._rows), lengths_R - 1]

    def step(self, embeds_RD: np.ndarray) -> np.ndarray:
        """Add one position and return its hidden state (R, D), valid until the next step."""
        self._step_embeds[:, 0] = embeds_RD
        self._step_positions[:, 0] = self._step_lengths
        self._step_lengths += 1
        self._call()
        return self._step_hidden[:, 0]

    def look_ahead(self, embeds_RTD: np.ndarray, positions_RT: np.ndarray) -> np.ndarray:
        """Return the hidden states (R, T, D) of several more positions, valid until the next call.

        The positions see what came before and each other, causally. They are not kept: whatever
        follows starts from the same place.

        Args:
            embeds_RTD: Embeddings; T is the same in every call.
            positions_RT: Their positions, which may leave a gap after what came before.
        """
        if self._ahead is None:
            embeds, hidden = np.empty_like(embeds_RTD), np.empty_like(embeds_RTD)
            lengths = self._step_lengths + embeds_RTD.shape[1]
            positions = positions_RT.copy()
            call = self._bound(self._prefill_engine, embeds, positions, lengths, hidden)
            self._ahead = call, embeds, positions, hidden
        call, embeds, positions, hidden = self._ahead
        embeds[:] = embeds_RTD
        positions[:] = positions_RT
        call()
        return hidden

    def _bound(
        self,
        engine: Engine,
        embeds: np.ndarray,
        positions: np.ndarray,
        lengths: np.ndarray,
        hidden: np.ndarray,
        **how: bool,
    ) -> Callable[[], None]:
        inputs = {"embeds": embeds, "positions": positions, "lengths": lengths, **self._cache.past}
        return engine.bind(inputs, {"hidden": hidden, **self._cache.present}, **how)


def decode_codes(
    decoder: CachedDecoder,
    image_head: Callable[[np.ndarray], np.ndarray],
    code_embed_VD: Rows,
    prompt_RTD: np.ndarray,
    lengths_R: np.ndarray,
    num_codes: int,
    seeds_B: np.ndarray,
    settings: Settings,
) -> Iterator[np.ndarray]:
    """Yield the codes (B,) of each position.

    Args:
        decoder: The decoder, with caches for the rows.
        image_head: From hidden states (R, D) to logits (R, V).
        code_embed_VD: Embeddings of the codes.
        prompt_RTD: Embeddings of the prompts, padded on the right. With guidance all conditional
            rows come before all unconditional ones.
        lengths_R: The prompts' lengths without padding.
        num_codes: N.
        seeds_B: One seed per image.
        settings: How codes are chosen.
    """
    hidden_RD = decoder.prefill(prompt_RTD, lengths_R)
    noise_of = _noise(seeds_B, num_codes, len(code_embed_VD), "image", settings)
    images = len(seeds_B)
    for position in range(num_codes):
        logits_RV = image_head(hidden_RD)
        if settings.guided:
            logits_BV = sampling.guide(
                logits_RV[:images], logits_RV[images:], settings.guidance_scale
            )
        else:
            logits_BV = logits_RV
        codes_B = sampling.choose(
            logits_BV,
            noise_of(position),
            settings.temperature,
            settings.top_k,
            settings.top_p,
        )
        yield codes_B
        if position + 1 < num_codes:  # the last code needs no step
            codes_R = np.tile(codes_B, 2) if settings.guided else codes_B
            hidden_RD = decoder.step(code_embed_VD[codes_R])


def decode_text(
    decoder: CachedDecoder,
    text_head: Callable[[np.ndarray], np.ndarray],
    text_embed_VD: Rows,
    prompt_1TD: np.ndarray,
    max_tokens: int,
    stop: frozenset[int],
    seed: int,
    settings: Settings,
) -> Iterator[int]:
    """Yield token ids, up to the first one in ``stop`` or ``max_tokens`` of them.

    Args:
        decoder: The decoder, with caches for one row.
        text_head: From hidden states (1, D) to logits (1, V).
        text_embed_VD: Embeddings of the tokens.
        prompt_1TD: Embeddings of the prompt.
        max_tokens: The most tokens.
        stop: Ids that end the text; they are not yielded.
        seed: Seed of the sampler.
        settings: How tokens are chosen.
    """
    hidden_1D = decoder.prefill(prompt_1TD, np.array([prompt_1TD.shape[1]]))
    noise_of = _noise(np.array([seed]), max_tokens, len(text_embed_VD), "text", settings)
    for position in range(max_tokens):
        (token,) = sampling.choose(
            text_head(hidden_1D),
            noise_of(position),
            settings.temperature,
            settings.top_k,
            settings.top_p,
        )
        if int(token) in stop:
            return
        yield int(token)
        if position + 1 < max_tokens:
            hidden_1D = decoder.step(text_embed_VD[[token]])


def _noise(
    seeds_B: np.ndarray, num_positions: int, size: int, stream: str, settings: Settings
) -> Callable[[int], np.ndarray | None]:
    """Return Gumbel noise (B, V) as a function of position, made in blocks of positions."""
    at_once = max(1, NOISE_BLOCK // (size * len(seeds_B)))
    start, block = 0, np.empty((len(seeds_B), 0, size), np.float32)

    def at(position: int) -> np.ndarray | None:
        nonlocal start, block
        if sampling.is_greedy(settings.temperature):
            return None
        if position >= start + block.shape[1]:
            start = position
            stop = min(position + at_once, num_positions)
            positions = np.arange(start, stop)
            block = sampling.gumbel(seeds_B, positions, size, sampling.STREAMS[stream])
        return block[:, position - start]

    return at
