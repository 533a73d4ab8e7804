"""Make a drawing or an answer as rows of the decoder, for continuous batching (docs/serving.md).

A sequence knows nothing of others. Its codes or tokens are those of ``draw_codes`` and ``answer``,
as noise depends on seed and position alone.

Shapes: R rows of the sequence, T positions, D width, V codes or tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque

import numpy as np
from PIL import Image as PilImage

from janus_edge.runtime import image as images
from janus_edge.runtime.cached_decoder import CachedDecoder
from janus_edge.runtime.decode import Drafts, Settings, code_chooser, looked_up, token_chooser
from janus_edge.runtime.decoding import Pixels
from janus_edge.runtime.draw_codes import padded, sizes_of
from janus_edge.runtime.engines import Engines
from janus_edge.runtime.events import Event, Finished, Image, Preview, Progress, Text
from janus_edge.runtime.kept import Arrays, keep_row, restore
from janus_edge.runtime.passes import WIDTHS
from janus_edge.runtime.previews import preview_names, preview_of_codes
from janus_edge.runtime.requests import AskRequest, PlannedImage
from janus_edge.runtime.text_stream import TextStream
from janus_edge.runtime.timing import Stopwatch
from janus_edge.runtime.vision import COMPONENTS, embedded


class Sequence(ABC):
    """A request's image or answer while it is made.

    Attributes:
        head: The component that makes its logits.
        table: The table with the embeddings of what it chooses.
        num_rows: Rows of the decoder that it needs.
        num_positions: Positions of the caches that it needs.
        events: What happened and was not read yet.
        is_done: True once its last code or token is chosen.
        is_over: True once its last event is there, or it has failed.
        error: Why it has failed.
    """

    head: str
    table: str
    num_rows: int
    num_positions: int

    def __init__(self, engines: Engines) -> None:
        """Begin; nothing is computed yet."""
        self.engines = engines
        self.events: deque[Event] = deque()
        self.is_done = self.is_over = False
        self.error: Exception | None = None
        self._watch = Stopwatch()

    @abstractmethod
    def start(self) -> tuple[list[Arrays], np.ndarray]:
        """Compute the prompt.

        Returns:
            Keys and values of each row, and the hidden states (R, D) of the last positions.
        """

    @property
    @abstractmethod
    def most(self) -> int:
        """Return how many positions the next pass may use."""

    @abstractmethod
    def given(self, time: int) -> np.ndarray:
        """Return what the next pass reads, (T,): the last one chosen, then drafts."""

    @abstractmethod
    def take(self, logits_RTV: np.ndarray) -> int:
        """Choose codes or tokens.

        Args:
            logits_RTV: Logits of the positions that the pass read.

        Returns:
            How many of the positions are right and kept.
        """

    @abstractmethod
    def finish(self, decoder: CachedDecoder, row: int) -> None:
        """Keep what is worth it for later requests; the rows are given away next."""

    @property
    def codes(self) -> np.ndarray | None:
        """Codes that must be decoded before ``end``; None if there are none."""
        return None

    @abstractmethod
    def end(self, pixels: Pixels | None) -> None:
        """Make the last events, once the rows are given away.

        Args:
            pixels: What ``codes`` were decoded to.
        """

    def fail(self, error: Exception) -> None:
        """End without the last events; others go on."""
        self.error, self.is_over = error, True

    def _finish(self) -> None:
        self.events.append(Finished(timings_ms=self._watch.timings_ms()))
        self.is_over = True


class Drawing(Sequence):
    """An image of codes: a conditional row, and with guidance an unconditional one."""

    head, table = "image_head", "code_embed"

    def __init__(
        self,
        engines: Engines,
        plan: PlannedImage,
        settings: Settings,
        shown: tuple[PilImage.Image, ...],
        *,
        previews: bool,
    ) -> None:
        """Begin an image; see ``draw_codes`` for the arguments."""
        super().__init__(engines)
        self._plan, self._settings, self._shown, self._previews = plan, settings, shown, previews
        sizes = sizes_of(engines)
        self._num, self._grid = sizes.num_codes, sizes.code_grid
        self.num_rows = 2 if settings.guided else 1
        self.num_positions = min(len(plan.ids_T) + self._num + WIDTHS[-1], sizes.max_length)
        self._drafts = Drafts.start(1, self._num, WIDTHS[-1])
        size, seeds = sizes.codebook_size, np.array([plan.seed], np.uint64)
        # The batch computes the logits of all its images at once, so the chooser gets them as they
        # are.
        self._choose = code_chooser(lambda logits: logits, size, self._num, seeds, settings)

    def start(self) -> tuple[list[Arrays], np.ndarray]:
        """Compute the prompt, and the unconditional one."""
        engines, rows = self.engines, [self._plan.ids_T]
        if self._settings.guided:
            rows.append(engines.bundle.encoder.unconditional(self._plan.ids_T))
        engines.open("decoder", "image_head", *preview_names(engines, self._previews))
        prompts = embedded(engines, rows, self._shown)
        return _computed(engines, prompts, keeps=engines.uses_cpu_kernels, prefill=False)

    @property
    def most(self) -> int:
        """Return how many codes are left."""
        return self._num - int(self._drafts.drawn_B[0])

    def given(self, time: int) -> np.ndarray:
        """Return the codes that the next pass reads."""
        return self._drafts.given(time)[0]

    def take(self, logits_RTV: np.ndarray) -> int:
        """Choose codes; note progress and, after each row of codes, a preview."""
        positions = np.minimum(self._drafts.positions(logits_RTV.shape[1]), self._num - 1)
        before = int(self._drafts.drawn_B[0])
        accepted = int(self._drafts.take(self._choose(logits_RTV, positions))[0])
        done, elapsed_ms = before + accepted, self._watch.elapsed_ms
        self.events.append(
            Progress(done=done, total=self._num, unit="codes", elapsed_ms=elapsed_ms)
        )
        if self._previews and before // self._grid < done // self._grid:
            drawn = done // self._grid * self._grid
            pixels = preview_of_codes(self.engines, self.codes[:drawn])
            self.events.append(
                Preview(
                    index=self._plan.index,
                    done=drawn,
                    pixels=pixels,
                    elapsed_ms=self._watch.elapsed_ms,
                )
            )
        self.is_done = done == self._num
        return accepted

    def finish(self, decoder: CachedDecoder, row: int) -> None:
        """Keep nothing: a code that was drawn begins no other request."""

    def end(self, pixels: Pixels | None) -> None:
        """Note the image."""
        assert pixels is not None
        self._watch.add("image_decoder", pixels.took_ms)
        self.events.append(
            Image(
                index=self._plan.index,
                pixels=images.to_pixels(pixels.image),
                codes=self.codes,
                seed=self._plan.seed,
                elapsed_ms=self._watch.elapsed_ms,
                approximate=self._settings.is_approximate,
            )
        )
        self._finish()

    @property
    def codes(self) -> np.ndarray:
        """The codes drawn so far; behind them, room."""
        return self._drafts.codes_BN[0, : self._num].copy()


class Answer(Sequence):
    """An answer: one row."""

    head, table, num_rows = "text_head", "text_embed", 1

    def __init__(self, engines: Engines, request: AskRequest, ids_T: np.ndarray) -> None:
        """Begin an answer; see ``answer`` for the arguments."""
        super().__init__(engines)
        self._request, self._prompt = request, ids_T
        room = engines.bundle.manifest.sizes.max_length - len(ids_T)
        self._left = min(request.max_tokens, room)
        self.num_positions = len(ids_T) + self._left
        self._ids: list[int] = ids_T.tolist()
        self._key_T = ids_T
        encoder = engines.bundle.encoder
        self._stream = TextStream(encoder.decode, encoder.stop_string)
        settings = Settings(temperature=request.temperature, top_p=request.top_p)
        size = engines.bundle.manifest.sizes.vocab_size
        self._choose = token_chooser(self._left, size, request.seed, settings)
        self._given: list[int] = []
        self._count = 0

    def start(self) -> tuple[list[Arrays], np.ndarray]:
        """Compute the prompt."""
        engines, shown = self.engines, self._request.rgb_images
        vision = COMPONENTS if shown else ()
        engines.open(*engines.decoder_names(), "text_head", *vision)
        prompts = embedded(engines, [self._prompt], shown)
        self._key_T = prompts[0][1]
        return _computed(engines, prompts, keeps=True, prefill=True)

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self._prompt)

    @property
    def num_tokens(self) -> int:
        """Tokens of the answer so far."""
        return self._count

    @property
    def most(self) -> int:
        """Return the last token and the drafts that follow it."""
        return 1 + len(self._looked_up(WIDTHS[-1] - 1))

    def given(self, time: int) -> np.ndarray:
        """Return the last token and drafts; where there are too few, the last one again."""
        found = [self._ids[-1], *self._looked_up(time - 1)]
        self._given = found + found[-1:] * (time - len(found))
        return np.array(self._given)

    def take(self, logits_RTV: np.ndarray) -> int:
        """Choose tokens; note their text."""
        chosen = self._choose(logits_RTV[0], self._count)
        right = 1
        while self._given and right < len(chosen) and chosen[right - 1] == self._given[right]:
            right += 1
        text = ""
        for token in chosen[:right]:
            if token in self.engines.bundle.encoder.stop_ids:
                self.is_done = True
                break
            self._ids.append(token)
            self._count += 1
            text += self._stream.add(token)
            self.is_done = self._count == self._left or self._stream.is_over
            if self.is_done:
                break
        text += self._stream.end() if self.is_done else ""
        if text:
            self.events.append(Text(text=text, elapsed_ms=self._watch.elapsed_ms))
        return right

    def finish(self, decoder: CachedDecoder, row: int) -> None:
        """Keep the prompt and the answer for the conversation's next turn."""
        answered = self._ids[len(self._prompt) :]
        keep_row(self.engines.kept, decoder, row, np.array([*self._key_T, *answered], np.int64))

    def end(self, pixels: Pixels | None) -> None:
        """Note that the answer is complete."""
        self._finish()

    def _looked_up(self, most: int) -> list[int]:
        return looked_up(self._ids, min(most, self._left - self._count - 1))


def _computed(
    engines: Engines,
    prompts: list[tuple[np.ndarray, np.ndarray]],
    *,
    keeps: bool,
    prefill: bool,
) -> tuple[list[Arrays], np.ndarray]:
    """Compute prompts in a decoder of their own.

    Args:
        engines: The bundle's engines.
        prompts: Embeddings (T, D) and key (T,) of each row's prompt.
        keeps: True to take what earlier requests computed, and to keep it for later ones.
        prefill: True if a copy of the decoder for many positions may be used.

    Returns:
        As of ``Sequence.start``.
    """
    longest = max(len(key_T) for _, key_T in prompts)
    decoder = engines.open_decoder(len(prompts), longest, steps=True, prefill=prefill)
    for row, (_, key_T) in enumerate(prompts if keeps else ()):
        restore(engines.kept, decoder, row, key_T)
    hidden_RD = decoder.prefill(*padded([embeds_TD for embeds_TD, _ in prompts]))
    for row, (_, key_T) in enumerate(prompts if keeps else ()):
        keep_row(engines.kept, decoder, row, key_T)
    return [decoder.saved(row, longest) for row in range(len(prompts))], hidden_RD
