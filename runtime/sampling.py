"""The sampler, defined once in docs/sampling.md: guidance, temperature, noise, argmax.

Noise comes from a counter-based generator (Philox4x32-10) whose key is the seed and whose counter
is the position and the code. So it is the same in every batch, on every backend and in any order of
positions.

Shapes: B images, P positions, V codes or tokens.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from janus_edge.runtime.errors import BundleError

MIN_TEMPERATURE = 1e-6  # below it the largest logit is taken; compared in float64
MAX_VALUE = np.float32(1e30)  # of a logit: divided by MIN_TEMPERATURE it is still finite
STREAMS = {"image": 0, "text": 1, "latent": 2}

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


Words = Sequence[np.ndarray | np.uint64]


def philox(counter: Words, key: Words) -> tuple[np.ndarray, ...]:
    """Return four random words: ten rounds of Philox4x32.

    All words are uint64 arrays that hold 32-bit values and broadcast together.

    Args:
        counter: Four words.
        key: Two words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0 = np.uint64(_MULTIPLIERS[0]) * c0
        p1 = np.uint64(_MULTIPLIERS[1]) * c2
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + np.uint64(_WEYL[0])) & _LOW, (k1 + np.uint64(_WEYL[1])) & _LOW
    return tuple(np.asarray(word) for word in (c0, c1, c2, c3))


def random_words(
    seeds_B: np.ndarray, positions_P: np.ndarray, size: int, stream: int
) -> np.ndarray:
    """Return random 32-bit words (B, P, size) uint32.

    Word v is output v % 4 of the counter (v // 4, position).

    Args:
        seeds_B: One seed per image, 64 bits.
        positions_P: Positions in the sequence.
        size: Words per position.
        stream: A value of ``STREAMS``; other streams give other words.
    """
    seeds = np.asarray(seeds_B, np.uint64)[:, None, None]
    blocks = np.arange((size + 3) // 4, dtype=np.uint64)
    positions = np.asarray(positions_P, np.uint64)[None, :, None]
    counter = (blocks, positions, np.uint64(stream), np.uint64(0))
    words = philox(counter, (seeds & _LOW, seeds >> _HALF))
    shape = (seeds.shape[0], positions.shape[1], len(blocks))
    stacked = np.stack([np.broadcast_to(word, shape) for word in words], axis=-1)
    return stacked.reshape(*shape[:2], -1)[..., :size].astype(np.uint32)


def gumbel(seeds_B: np.ndarray, positions_P: np.ndarray, size: int, stream: int) -> np.ndarray:
    """Return standard Gumbel noise (B, P, size) float32, from 23 bits of each word.

    Args:
        seeds_B: One seed per image.
        positions_P: Positions in the sequence.
        size: Numbers per position.
        stream: A value of ``STREAMS``.
    """
    uniform = _uniform(random_words(seeds_B, positions_P, size, stream))
    return (-np.log(-np.log(uniform))).astype(np.float32)


def normal(seeds_B: np.ndarray, shape: tuple[int, ...], stream: int) -> np.ndarray:
    """Return standard normal noise (B, *shape) float32, from 23 bits of each word at position 0.

    Words 2i and 2i + 1 make elements 2i and 2i + 1, counted in raster order. All values are within
    5.77 of 0.

    Args:
        seeds_B: One seed per image.
        shape: Shape of the noise of one image.
        stream: A value of ``STREAMS``.

    Source: Box and Muller's transform, Annals of Mathematical Statistics 29, 1958.
    """
    size = math.prod(shape)
    even = size + size % 2  # an odd size drops the last pair's sine, not its word
    uniform = _uniform(random_words(seeds_B, np.array([0]), even, stream)[:, 0])
    radius = np.sqrt(-2 * np.log(uniform[:, ::2]))
    angle = 2 * np.pi * uniform[:, 1::2]
    pairs = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=-1)
    return pairs.reshape(-1, even)[:, :size].reshape(-1, *shape).astype(np.float32)


def _uniform(words: np.ndarray) -> np.ndarray:
    """Return float64 inside (0, 1), never 0 or 1: the middles of 2^23 equal cells."""
    return ((words >> np.uint32(9)).astype(np.float64) + 0.5) * 2.0**-23


def guide(cond: np.ndarray, uncond: np.ndarray, guidance_scale: float) -> np.ndarray:
    """Return uncond + s * (cond - uncond), classifier-free guidance in float32.

    Values that overflow are refused where they are used.

    Args:
        cond: Conditional logits (B, V) or velocities (B, C, H, W).
        uncond: Unconditional ones, of the same shape.
        guidance_scale: The scale s.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return uncond + np.float32(guidance_scale) * (cond - uncond)


def check_sound(values: np.ndarray, what: str) -> None:
    """Raise BundleError if a number that the model computed is NaN or beyond MAX_VALUE.

    Args:
        values: Numbers of any shape.
        what: What the error calls them.
    """
    if not (np.abs(values) <= MAX_VALUE).all():  # NaN is never <=
        raise unsound(what)


def unsound(what: str) -> BundleError:
    """Return the error for numbers that no model should compute."""
    return BundleError(
        f"the model computes {what} that are NaN or beyond 1e30; its weights are damaged, or "
        "overflow in this precision: export it again"
    )


def is_greedy(temperature: float) -> bool:
    """Return True if the largest logit is taken, without noise."""
    return temperature < MIN_TEMPERATURE


def choose(
    logits_BV: np.ndarray,
    noise_BV: np.ndarray | None,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
) -> np.ndarray:
    """Return a code or token per row, (B,) int64: argmax(logits / T + noise) over the kept entries.

    Args:
        logits_BV: The model's logits, float32.
        noise_BV: Gumbel noise; None takes the largest logit.
        temperature: T; below MIN_TEMPERATURE the largest logit is taken.
        top_k: How many of the largest logits are kept; 0 keeps all.
        top_p: Sum of the probabilities that are kept, the likeliest first; 1 keeps all.

    Raises:
        BundleError: A logit is NaN or beyond MAX_VALUE.
    """
    check_sound(logits_BV, "logits")
    if is_greedy(temperature) or noise_BV is None:
        return logits_BV.argmax(axis=1)
    scaled = logits_BV / np.float32(temperature)
    if 0 < top_k < scaled.shape[1]:
        least = np.partition(scaled, -top_k, axis=1)[:, -top_k, None]
        scaled = np.where(scaled >= least, scaled, -np.inf)
    if top_p < 1:
        scaled = np.where(_nucleus(scaled, top_p), scaled, -np.inf)
    return (scaled + noise_BV).argmax(axis=1)


def _nucleus(scaled_BV: np.ndarray, top_p: float) -> np.ndarray:
    """Return True for the likeliest entries, as long as those before sum to less than top_p."""
    order = np.argsort(-scaled_BV, axis=1, kind="stable")
    ranked = np.take_along_axis(scaled_BV, order, axis=1).astype(np.float64)
    probs = np.exp(ranked - ranked[:, :1])
    probs /= np.cumsum(probs, axis=1)[:, -1:]  # summed in order, as the C++ code does
    keep = np.cumsum(probs, axis=1) - probs < top_p
    out = np.zeros_like(keep)
    np.put_along_axis(out, order, keep, axis=1)
    return out
