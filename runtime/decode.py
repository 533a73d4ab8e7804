"""The decode loops: prefill, then one or several codes, or one token, at a time.

This module knows no text, file, clock or print.

Shapes: B images, R rows (2B with guidance), T time, D width, V codes or tokens, N codes per image,
G key-value heads, M cache length, E head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from janus_edge.runtime import sampling
from janus_edge.runtime.cached_decoder import CachedDecoder
from janus_edge.runtime.passes import MOST_WIDTH, Passes
from janus_edge.runtime.tables import Rows

LOOKED_UP = (3, 2)  # how many tokens must have come before
NOISE_BLOCK = 2**17  # numbers made at once; more would not fit into the second-level cache


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How codes or tokens are chosen.

    Attributes:
        temperature: 0 takes the largest logit.
        guidance_scale: Scale of classifier-free guidance, for images only; 1 turns it off.
        top_k: How many of the largest logits are kept; 0 keeps all.
        top_p: Sum of the probabilities that are kept, the likeliest first; 1 keeps all.
        window: Codes of a row that are there when the next row begins, for images only; 0 draws in
            raster order.
        guidance_end: The part of an image's codes that are guided, for images only.
    """

    temperature: float
    guidance_scale: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    window: int = 0
    guidance_end: float = 1.0

    @property
    def guided(self) -> bool:
        """True if unconditional rows are needed. At scale 1 they would cancel out."""
        return self.guidance_scale != 1.0

    def num_guided(self, num_codes: int) -> int:
        """Return how many of an image's codes are guided.

        Args:
            num_codes: N.
        """
        return round(self.guidance_end * num_codes) if self.guided else 0

    @property
    def is_approximate(self) -> bool:
        """True if codes do not depend on all that the published loop lets them depend on."""
        return self.window > 0 or (self.guided and self.guidance_end < 1.0)


Head = Callable[[np.ndarray], np.ndarray]  # hidden states (R, D) to logits (R, V)
PassesByRows = dict[int, Passes]  # by rows of an image: 2 while it is guided, then 1
Choose = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From hidden states (R, T, D) and positions (B, T) to codes (B, T)."""


def code_chooser(
    image_head: Head, size: int, num_codes: int, seeds_B: np.ndarray, settings: Settings
) -> Choose:
    """Return what chooses the codes of positions.

    The first codes are guided. Then there are two rows per image, the unconditional ones last.

    Args:
        image_head: From hidden states (R, D) to logits (R, V).
        size: V.
        num_codes: N.
        seeds_B: One seed per image.
        settings: How codes are chosen.
    """
    guided = settings.num_guided(num_codes)
    noise_of = _noise(seeds_B, num_codes, size, "image", settings)

    def choose(hidden_RTD: np.ndarray, positions_BT: np.ndarray) -> np.ndarray:
        rows, time, width = hidden_RTD.shape
        logits_RTV = image_head(hidden_RTD.reshape(-1, width)).reshape(rows, time, -1)
        if rows > len(seeds_B):
            cond_BTV, uncond_BTV = np.split(logits_RTV, 2)
            guided_BTV = sampling.guide(cond_BTV, uncond_BTV, settings.guidance_scale)
            logits_RTV = np.where((positions_BT < guided)[..., None], guided_BTV, cond_BTV)
        return _choose(logits_RTV, noise_of(positions_BT), settings)

    return choose


def decode_codes(
    decoder: CachedDecoder,
    choose: Choose,
    code_embed_VD: Rows,
    hidden_RD: np.ndarray,
    images: int,
    num_codes: int,
    guided: int,
    passes: PassesByRows,
) -> Iterator[np.ndarray]:
    """Yield the codes (B,) of each position.

    Args:
        decoder: The decoder, which has computed the rows' prompts. With guidance all conditional
            rows come before all unconditional ones.
        choose: Chooses codes; see ``code_chooser``.
        code_embed_VD: Embeddings of the codes.
        hidden_RD: Hidden states of the prompts' last positions.
        images: B.
        num_codes: N.
        guided: How many codes of an image need its unconditional row.
        passes: How many positions are computed at once; the codes do not depend on it.
    """
    drafts = Drafts.start(images, num_codes, max(each.widest for each in passes.values()))

    def take(hidden_RTD: np.ndarray) -> np.ndarray:
        positions_BT = np.minimum(drafts.positions(hidden_RTD.shape[1]), num_codes - 1)
        return drafts.take(choose(hidden_RTD, positions_BT))

    take(hidden_RD[:, None])
    shown = 0
    while True:
        complete = int(drafts.drawn_B.min())
        for position in range(shown, complete):
            yield drafts.codes_BN[:, position].copy()
        shown = complete
        if shown == num_codes:  # the last code needs no step
            return
        copies = 2 if shown < guided else 1
        width = passes[copies].begin(min(num_codes - shown, decoder.room))
        embeds_BTD = code_embed_VD[drafts.given(width)]
        accepted_B = take(decoder.look_ahead(np.concatenate([embeds_BTD] * copies)))
        decoder.keep(np.tile(accepted_B, copies))
        passes[copies].end(accepted_B)


@dataclass(frozen=True)
class Drafts:
    """The codes of some images: those that are drawn, and behind them what may follow.

    Attributes:
        codes_BN: Codes, with room for a pass behind the last one.
        drawn_B: How many of each image are drawn; the others are drafts.
        num_codes: N, codes of an image.
    """

    codes_BN: np.ndarray
    drawn_B: np.ndarray
    num_codes: int

    @classmethod
    def start(cls, images: int, num_codes: int, widest: int) -> Drafts:
        """Return no codes, with room for passes of ``widest`` positions."""
        codes_BN = np.zeros((images, num_codes + widest), np.int64)
        return cls(codes_BN, np.zeros(images, np.int64), num_codes)

    def positions(self, time: int) -> np.ndarray:
        """Return the next positions (B, T) of each image."""
        return self.drawn_B[:, None] + np.arange(time)

    def given(self, time: int) -> np.ndarray:
        """Return the codes (B, T) that the next pass reads: the last one drawn, then drafts."""
        return np.take_along_axis(self.codes_BN, self.positions(time) - 1, 1)

    def take(self, chosen_BT: np.ndarray) -> np.ndarray:
        """Accept the codes that a pass chose from drawn codes alone; keep the others as drafts.

        Its first code is one of them. Each further one is if the draft before it was right.

        Args:
            chosen_BT: The code that the pass chose for each of the next positions.

        Returns:
            How many codes were added to each image, (B,).
        """
        at_BT = self.positions(chosen_BT.shape[1])
        is_right = np.take_along_axis(self.codes_BN, at_BT, 1) == chosen_BT
        accepted_B = 1 + np.cumprod(is_right[:, :-1], axis=1).sum(axis=1)
        for codes_N, start, chosen_T in zip(self.codes_BN, self.drawn_B, chosen_BT, strict=True):
            codes_N[start : start + len(chosen_T)] = chosen_T
            codes_N[start + len(chosen_T) :] = chosen_T[-1]
        accepted_B = np.minimum(accepted_B, self.num_codes - self.drawn_B)
        self.drawn_B[:] += accepted_B
        return accepted_B


def token_chooser(
    max_tokens: int, size: int, seed: int, settings: Settings
) -> Callable[[np.ndarray, int], list[int]]:
    """Return what chooses the tokens (T,) that follow ``done`` others, from logits (T, V).

    Args:
        max_tokens: The most tokens.
        size: V.
        seed: Seed of the sampler.
        settings: How tokens are chosen.
    """
    noise_of = _noise(np.array([seed]), max_tokens, size, "text", settings)

    def choose(logits_TV: np.ndarray, done: int) -> list[int]:
        positions = np.minimum(done + np.arange(len(logits_TV)), max_tokens - 1)
        return _choose(logits_TV[None], noise_of(positions[None]), settings)[0].tolist()

    return choose


def decode_text(
    decoder: CachedDecoder,
    text_head: Head,
    text_embed_VD: Rows,
    hidden_1D: np.ndarray,
    ids: list[int],
    max_tokens: int,
    stop: frozenset[int],
    seed: int,
    settings: Settings,
    passes: Passes,
) -> Iterator[int]:
    """Yield token ids, up to the first one in ``stop`` or ``max_tokens`` of them.

    Args:
        decoder: The decoder, which has computed the prompt of its one row.
        text_head: From hidden states (R, D) to logits (R, V).
        text_embed_VD: Embeddings of the tokens.
        hidden_1D: Hidden state of the prompt's last position.
        ids: The prompt's token ids. The answer's are added to them.
        max_tokens: The most tokens.
        stop: Ids that end the text; they are not yielded.
        seed: Seed of the sampler.
        settings: How tokens are chosen.
        passes: How many positions are computed at once; the tokens do not depend on it.
    """
    choose, done = token_chooser(max_tokens, len(text_embed_VD), seed, settings), 0
    chosen, right = choose(text_head(hidden_1D), done), 1
    while True:
        for token in chosen[:right]:
            if token in stop:
                return
            ids.append(token)
            done += 1
            yield token
        if done == max_tokens:
            return
        drafts = looked_up(ids, min(passes.widest, max_tokens - done, decoder.room) - 1)
        width = passes.begin(1 + len(drafts))
        given = [ids[-1], *drafts[: width - 1]]
        chosen = choose(text_head(decoder.look_ahead(text_embed_VD[given][None])[0]), done)
        right = 1
        while right < width and chosen[right - 1] == given[right]:
            right += 1
        decoder.keep(np.array([right]))
        passes.end(np.array([right]))


def looked_up(ids: list[int], count: int) -> list[int]:
    """Return drafts of the tokens that follow: what followed the last tokens when they came before.

    Args:
        ids: All tokens so far.
        count: How many drafts; there are none if the last tokens are new.

    Source: Saxena, "Prompt lookup decoding", 2023.
    """
    for length in LOOKED_UP if count > 0 else ():
        last = ids[-length:]
        for start in range(len(ids) - length - 1, -1, -1):
            if ids[start : start + length] == last:
                found, at = list(ids), start + length
                for index in range(at, at + count):  # it may run into what it adds
                    found.append(found[index])
                return found[len(ids) :]
    return []


def _choose(logits_BTV: np.ndarray, noise_BTV: np.ndarray | None, settings: Settings) -> np.ndarray:
    """Return the code or token (B, T) of each position."""
    size = logits_BTV.shape[-1]
    noise = None if noise_BTV is None else noise_BTV.reshape(-1, size)
    rules = settings.temperature, settings.top_k, settings.top_p
    chosen = sampling.choose(logits_BTV.reshape(-1, size), noise, *rules)
    return chosen.reshape(logits_BTV.shape[:-1])


def _noise(
    seeds_B: np.ndarray, num_positions: int, size: int, stream: str, settings: Settings
) -> Callable[[np.ndarray], np.ndarray | None]:
    """Return Gumbel noise (B, T, V) as a function of positions (B, T), made in blocks of them."""
    at_once = min(max(1, NOISE_BLOCK // size), num_positions)

    @lru_cache(maxsize=len(seeds_B) * (2 + MOST_WIDTH // at_once))
    def block(image: int, index: int) -> np.ndarray:
        positions = np.arange(index * at_once, min((index + 1) * at_once, num_positions))
        return sampling.gumbel(seeds_B[[image]], positions, size, sampling.STREAMS[stream])[0]

    def at(positions_BT: np.ndarray) -> np.ndarray | None:
        if sampling.is_greedy(settings.temperature):
            return None
        images = enumerate(positions_BT.tolist())
        return np.array([[block(i, p // at_once)[p % at_once] for p in row] for i, row in images])

    return at
