"""A reader of tokenizer.bin, as plain as its specification (docs/bundle.md).

It shows what the C++ code has to do, and a compiled tokenizer is checked with it.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

MAGIC, VERSION, NO_TOKEN = b"JETK", 1, 0xFFFFFFFF
SPECIAL, NORMALIZED = 1, 2  # flags of an added token
CLASS, CONTRACTED = 0, 1  # kinds of steps
OPTIONAL_SPACE, RUN, TO_THE_END = 1, 2, 4  # flags of a step of kind CLASS
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Class:
    """A step that splits off a run of a class of characters, or one character of it."""

    flags: int
    members: frozenset[str]


@dataclass(frozen=True)
class _Contracted:
    """A step that splits as GPT-2 does.

    It splits off contractions, letters, numbers and others, each with a space before it, and runs
    of spaces without the last space before something else.
    """

    letters: frozenset[str]
    numbers: frozenset[str]
    named: frozenset[str]  # letters, numbers and white space; the rest are "others"


class TokenTables:
    """The tables of a compiled tokenizer: from text to ids and back."""

    def __init__(self, raw: bytes) -> None:
        """Read the bytes of a tokenizer.bin."""
        assert raw[:4] == MAGIC
        self._words = struct.unpack_from(f"<{len(raw) // 4 - 1}I", raw, 4)
        self._at = 0
        version, tokens, merges, added, lowered, steps, size, _ = self._take(8)
        assert version == VERSION
        self._byte_ids = self._take(256)
        offsets = self._take(tokens + 1)
        self._merges = {}
        for _ in range(merges):
            left, right, rank, made = self._take(4)
            self._merges[left, right] = rank, made
        entries = [self._take(4) for _ in range(added)]
        self._lower = {}
        for _ in range(lowered):
            point, count, *points = self._take(5)
            self._lower[point] = "".join(map(chr, points[:count]))
        self._spaces = self._members()
        self._steps = [self._step() for _ in range(steps)]
        start = 4 + 4 * self._at
        self._bytes = [raw[start + a : start + b] for a, b in pairwise(offsets)]
        texts = start + size
        self._added = [
            (id_, flags, raw[texts + at : texts + at + length].decode())
            for id_, flags, at, length in entries
        ]
        self._special = {id_ for id_, flags, _ in self._added if flags & SPECIAL}

    def encode(self, text: str) -> list[int]:
        """Return a text's ids, without what a template would put around them."""
        ids: list[int] = []
        for part, id_ in self._cut(text, 0):
            if id_ is not None:
                ids.append(id_)
                continue
            small = part.translate(self._lower) if self._lower else part
            for piece, inner in self._cut(small, NORMALIZED):
                ids += [inner] if inner is not None else self._ids(piece)
        return ids

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids, without special tokens; bytes that are no UTF-8 become U+FFFD."""
        kept = (self._bytes[id_] for id_ in ids if id_ not in self._special)
        return b"".join(kept).decode(errors="replace")

    def _take(self, count: int) -> tuple[int, ...]:
        self._at += count
        return self._words[self._at - count : self._at]

    def _members(self) -> frozenset[str]:
        (count,) = self._take(1)
        pairs = [self._take(2) for _ in range(count)]
        return frozenset(chr(point) for least, most in pairs for point in range(least, most + 1))

    def _step(self) -> _Class | _Contracted:
        (kind,) = self._take(1)
        if kind == CONTRACTED:
            letters, numbers = self._members(), self._members()
            return _Contracted(letters, numbers, letters | numbers | self._spaces)
        (flags,) = self._take(1)
        return _Class(flags, self._members())

    def _cut(self, text: str, kind: int) -> Iterator[tuple[str, int | None]]:
        """Yield the added tokens of a kind, with their ids, and the texts between them, with None.

        Of several tokens the first in the text is taken, and of those that begin there the longest.
        """
        found = [
            (id_, content) for id_, flags, content in self._added if flags & NORMALIZED == kind
        ]
        start = at = 0
        while at < len(text):
            hit = next(((i, c) for i, c in found if c and text.startswith(c, at)), None)
            if hit is None:
                at += 1
                continue
            if start < at:
                yield text[start:at], None
            yield hit[1], hit[0]
            start = at = at + len(hit[1])
        if start < len(text):
            yield text[start:], None

    def _ids(self, text: str) -> Iterator[int]:
        pieces = [text]
        for step in self._steps:
            pieces = [part for piece in pieces for part in self._split(step, piece)]
        for piece in pieces:
            yield from self._merged(piece.encode())

    def _split(self, step: _Class | _Contracted, text: str) -> Iterator[str]:
        start = at = 0
        match = self._class_end if isinstance(step, _Class) else self._contracted_end
        while at < len(text):
            end = match(step, text, at)  # type: ignore[arg-type]
            if end == at:
                at += 1
                continue
            if start < at:
                yield text[start:at]
            yield text[at:end]
            start = at = end
        if start < len(text):
            yield text[start:]

    def _class_end(self, step: _Class, text: str, start: int) -> int:
        """Return where a match that begins at ``start`` ends; ``start`` if there is none."""
        at = start
        if step.flags & OPTIONAL_SPACE and text[at] in self._spaces:
            at += text[at + 1 : at + 2] in step.members and at + 1 < len(text)
        if text[at] not in step.members:
            return start
        end = _run(text, at, step.members) if step.flags & RUN else at + 1
        return start if step.flags & TO_THE_END and end < len(text) else end

    def _contracted_end(self, step: _Contracted, text: str, start: int) -> int:
        """Return where the piece that begins at ``start`` ends."""
        for contraction in _CONTRACTIONS:
            if text.startswith(contraction, start):
                return start + len(contraction)
        at = start + (text[start] == " " and start + 1 < len(text))
        for members in (step.letters, step.numbers):
            if text[at] in members:
                return _run(text, at, members)
        if text[at] not in step.named:
            while at < len(text) and text[at] not in step.named:
                at += 1
            return at
        end = _run(text, start, self._spaces)
        return end - 1 if start + 1 < end < len(text) else end

    def _merged(self, raw: bytes) -> Iterator[int]:
        """Yield the ids of a piece after all merges: the lowest rank first, of those the leftmost.

        Bytes without a token are left out.
        """
        ids = [self._byte_ids[byte] for byte in raw]
        ids = [id_ for id_ in ids if id_ != NO_TOKEN]
        after = [*range(1, len(ids)), -1] if ids else []
        before = list(range(-1, len(ids) - 1))
        queue: list[tuple[int, int, int, int, int]] = []

        def offer(at: int) -> None:
            if at >= 0 and after[at] >= 0:
                pair = ids[at], ids[after[at]]
                if pair in self._merges:
                    rank, made = self._merges[pair]
                    heapq.heappush(queue, (rank, at, *pair, made))

        for at in range(len(ids)):
            offer(at)
        gone = [False] * len(ids)
        while queue:
            _, at, left, right, made = heapq.heappop(queue)
            if gone[at] or ids[at] != left or after[at] < 0 or ids[after[at]] != right:
                continue
            other = after[at]
            gone[other], ids[at], after[at] = True, made, after[other]
            if after[other] >= 0:
                before[after[other]] = at
            offer(before[at])
            offer(at)
        yield from (id_ for id_, is_gone in zip(ids, gone, strict=True) if not is_gone)


def _run(text: str, at: int, members: frozenset[str]) -> int:
    while at < len(text) and text[at] in members:
        at += 1
    return at
