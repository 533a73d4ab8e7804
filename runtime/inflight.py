"""Continuous batching: sequences that share the decoder's passes (docs/serving.md).

A sequence joins between two passes and leaves when it is done. Each row has its own length, so the
others do not notice.

Shapes: R rows, T positions, D width.
"""

from __future__ import annotations

import numpy as np

from janus_edge.runtime.cached_decoder import CachedDecoder
from janus_edge.runtime.decoding import Decoding
from janus_edge.runtime.engines import Engines
from janus_edge.runtime.passes import Passes, passes_for
from janus_edge.runtime.sequences import Sequence

# With more rows, a pass of two positions costs more than the codes that it adds are worth.
ROWS_FOR_DRAFTS = 4
TEXT = 256  # positions that a sequence has for text, besides images
_MOST_BYTES = 4 * 10**9  # of KV caches


class InFlight:
    """The sequences that are computed together.

    One thread at a time.

    Attributes:
        num_rows: Rows of the decoder, for all sequences together.
        num_positions: Positions of each row.
        sequences: What is computed now, in the order in which it joined.
    """

    def __init__(self, engines: Engines) -> None:
        """Choose the sizes; nothing is opened yet."""
        manifest, sizes = engines.bundle.manifest, engines.bundle.manifest.sizes
        kind = np.dtype(manifest.cache_type).itemsize
        position = 2 * sizes.num_layers * sizes.num_kv_heads * sizes.head_dim * kind
        # An image, or one that is asked about, with a long text. What is longer runs alone: the
        # system gives memory in pages that span a head's positions, used or not.
        self.num_positions = min(sizes.max_length, 2 * sizes.num_drawn + TEXT)
        fit = max(2, _MOST_BYTES // (position * self.num_positions))
        self.num_rows = min(manifest.components["decoder"].profile["R"][2], fit)
        self._engines = engines
        self._decoder: CachedDecoder | None = None
        self._owners: list[tuple[Sequence, int]] = []  # of each row, and which of its rows it is
        self.sequences: list[Sequence] = []
        self._passes: Passes | None = None
        self._decoding: Decoding[Sequence] = Decoding(engines)

    @property
    def is_busy(self) -> bool:
        """True if there is work for ``step``."""
        return bool(self.sequences or self._decoding)

    def has_room(self, sequence: Sequence) -> bool:
        """Return whether a sequence can join now."""
        return len(self._owners) + sequence.num_rows <= self.num_rows

    def can_take(self, sequence: Sequence) -> bool:
        """Return whether a sequence could join if there were no others."""
        fits = sequence.num_positions <= self.num_positions
        return fits and sequence.num_rows <= self.num_rows

    def join(self, sequence: Sequence) -> None:
        """Compute a sequence's prompt and its first code or token; give it rows.

        Raises:
            BundleError: A component cannot be opened, or computes what is no finite number.
        """
        caches, hidden_RD = sequence.start()
        logits_RV = self._engines.head(sequence.head)(hidden_RD)
        sequence.take(logits_RV[:, None])
        if sequence.is_done:
            self._end(sequence)
            return
        if self._decoder is None:
            self._decoder = self._engines.open_decoder(
                self.num_rows, self.num_positions, prefill=False
            )
        for index, each in enumerate(caches):
            self._decoder.restore(len(self._owners), each)
            self._owners.append((sequence, index))
        self.sequences.append(sequence)
        self._change()

    def leave(self, sequence: Sequence) -> None:
        """Give a sequence's rows away; those behind them move up."""
        if sequence not in self.sequences:  # all its codes are drawn
            self._decoding.drop(sequence)
            return
        decoder = self._decoder
        assert decoder is not None
        for row in sorted(self._rows_of(sequence), reverse=True):
            last = len(self._owners) - 1
            if row != last:
                decoder.move(last, row)
                self._owners[row] = self._owners[last]
            decoder.forget(last)
            self._owners.pop()
        self.sequences.remove(sequence)
        self._change()

    def stop(self) -> None:
        """Forget the images that are not decoded yet, and use all threads again."""
        self._decoding.stop()

    def step(self) -> None:
        """Compute a pass; without sequences, decode an image.

        What is done then leaves. An answer has its last events then, a drawing once it is decoded.

        Raises:
            BundleError: A component computes what is no finite number.
        """
        self._decode()
        if self.sequences:
            self._compute()

    def _decode(self) -> None:
        """End what is decoded; without sequences, decode one more."""
        # At most as many wait as there are rows; otherwise codes would come faster than images.
        passes_follow = bool(self.sequences) and len(self._decoding) <= self.num_rows
        while made := self._decoding.take(passes_follow=passes_follow):
            sequence, found = made
            if isinstance(found, Exception):
                sequence.fail(found)
            else:
                sequence.end(found)
            if not passes_follow:  # others may join before the next one
                return

    def _end(self, sequence: Sequence) -> None:
        """End a sequence whose rows are given away, or see to its decoding first."""
        if sequence.codes is None:
            sequence.end(None)
        else:
            self._decoding.add(sequence, sequence.codes)

    def _compute(self) -> None:
        """Compute a pass."""
        decoder = self._decoder
        assert decoder is not None
        passes = self._passes = self._passes or self._choose_passes()
        most = max(each.most for each in self.sequences)
        passes.is_alone = not self._decoding.is_beside
        width = passes.begin(min(most, decoder.room))
        counts_R = self._pass(decoder, width)
        decoder.keep(counts_R)
        firsts = [self._rows_of(each)[0] for each in self.sequences]
        passes.end(counts_R[firsts])
        for sequence in [each for each in self.sequences if each.is_done]:
            sequence.finish(decoder, self._rows_of(sequence)[0])
            self.leave(sequence)
            self._end(sequence)

    def _pass(self, decoder: CachedDecoder, width: int) -> np.ndarray:
        """Return how many positions of each row are kept, (R,)."""
        embeds = [np.empty(0)] * len(self._owners)
        for sequence in self.sequences:
            embeds_TD = self._engines.table(sequence.table)[sequence.given(width)]
            for row in self._rows_of(sequence):
                embeds[row] = embeds_TD
        hidden_RTD = decoder.look_ahead(np.stack(embeds).astype(np.float32))
        counts_R = np.zeros(len(self._owners), np.int64)
        for name in sorted({each.head for each in self.sequences}):
            of_head = [each for each in self.sequences if each.head == name]
            rows = [row for each in of_head for row in self._rows_of(each)]
            flat = hidden_RTD[rows].reshape(-1, hidden_RTD.shape[-1])
            logits = self._engines.head(name)(flat).reshape(len(rows), width, -1)
            at = 0
            for each in of_head:
                own = logits[at : at + each.num_rows]
                counts_R[self._rows_of(each)] = each.take(own)
                at += each.num_rows
        return counts_R

    def _choose_passes(self) -> Passes:
        """Return how many positions the next passes compute."""
        rows, heads = len(self._owners), {each.head for each in self.sequences}
        alone = len(self.sequences) == 1
        if len(heads) > 1 or rows > ROWS_FOR_DRAFTS or ("text_head" in heads and not alone):
            return Passes((1,))
        return passes_for(self._engines, rows, heads.pop(), None)

    def _change(self) -> None:
        """Choose the width of passes anew, as there are other sequences now."""
        if self._passes is not None:
            self._passes.keep()
        self._passes = None

    def _rows_of(self, sequence: Sequence) -> list[int]:
        """Return a sequence's rows in its own order, which moving may have turned around."""
        own = [(k, row) for row, (owner, k) in enumerate(self._owners) if owner is sequence]
        return [row for _, row in sorted(own)]
