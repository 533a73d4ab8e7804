"""Check a JPEG file and keep only what its pixels need (ITU T.81, JFIF 1.02, Adobe's APP14).

Decoders agree on what is left; they differ in what they forgive. Everything else, such as colour
profiles and previews, is left out. Mirrors native/core/jpeg.cpp; docs/prompts.md has the rules.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from janus_edge.runtime.errors import ImageError

_EOI, _SOS, _DQT, _DHT, _DRI = 0xD9, 0xDA, 0xDB, 0xC4, 0xDD
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_RARE = (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_ALONE = (0x00, 0x01, *range(0xD0, 0xD9))  # markers without a length; 0 is no marker
_END_OF_DATA = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")
_MOST_SCANS = 100
_MOST_BLOCKS = 10  # in an interleaved unit


@dataclass(frozen=True)
class Essence:
    """The part of a file that its pixels need.

    Attributes:
        file: A complete JPEG file of it.
        exif: The body of the Exif part.
        unit: Width and height, px, of what is coded together, if the one scan may be cut; else
            None.
        grey: The level that libjpeg gives missing pixels, in RGB.
        is_coarse: True if scans are missing.
    """

    file: bytes
    exif: bytes
    unit: tuple[int, int] | None
    grey: int
    is_coarse: bool


def essence(raw: bytes, check_size: Callable[[int, int], None]) -> Essence:
    """Check a JPEG file and return the part that its pixels need.

    Args:
        raw: The whole file.
        check_size: Called with the width and height before any pixel is decoded.

    Raises:
        ImageError: The file is damaged or of a rare kind. The message has no file name.
    """
    file = _File(check_size)
    for marker, body, data, is_open in _segments(raw):
        if marker in _RARE:
            raise ImageError("a rare kind of JPEG, lossless or arithmetic")
        if marker == _SOS:
            file.add_scan(body, data, is_open)
        elif marker in _PARTS:
            _PARTS[marker](file, marker, body)
    return file.finish()


def _segments(raw: bytes) -> Iterator[tuple[int, bytes, bytes, bool]]:
    """Yield each segment's marker, body, a scan's data, and whether the file ends in that data."""
    at = 2
    while (at := raw.find(b"\xff", at)) >= 0:
        while raw[at : at + 1] == b"\xff":
            at += 1
        marker = int.from_bytes(raw[at : at + 1])
        at += 1
        if marker in _ALONE:
            continue
        if marker == _EOI:
            yield marker, b"", b"", False
            return
        size = int.from_bytes(raw[at : at + 2], "big")
        if at + max(size, 2) > len(raw):
            return
        if size < 2:
            raise ImageError("damaged: a part without a size")
        body = raw[at + 2 : at + size]
        at += size
        if marker != _SOS:
            yield marker, body, b"", False
            continue
        end = _END_OF_DATA.search(raw, at)
        stop = len(raw) if end is None else end.start()
        yield marker, body, raw[at:stop].rstrip(b"\xff"), end is None
        at = stop


def _framed(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


class _Component(NamedTuple):
    """A component of a frame.

    Attributes:
        name: Its number in the file.
        across: Samples along a unit.
        down: Samples down a unit.
        table: Number of its quantization table.
    """

    name: int
    across: int
    down: int
    table: int


class _File:
    """What was read of a file so far."""

    def __init__(self, check_size: Callable[[int, int], None]) -> None:
        """Start with nothing read; ``check_size`` is called with the image's width and height."""
        self._check_size = check_size
        self._parts = b""  # segments before the next scan
        self._scans: list[tuple[bytes, set[int]]] = []  # each with its segments; its components
        self._components: list[_Component] = []
        self._is_progressive = self._is_open = self._has_end = self._has_jfif = False
        self._exif, self._adobe = b"", -1
        self._tables: set[int] = set()  # number of a DQT, 256 + class and number of a DHT

    def end(self, marker: int, body: bytes) -> None:
        """Take the end of the image."""
        self._has_end = True

    def app(self, marker: int, body: bytes) -> None:
        """Take JFIF, Exif or Adobe's mark."""
        if marker == 0xE0 and body.startswith(b"JFIF\0"):
            self._has_jfif = True
        if marker == 0xE1 and body.startswith(b"Exif\0\0") and not self._exif:
            self._exif = body[6:]
        if marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            self._adobe = body[11]

    def frame(self, marker: int, body: bytes) -> None:
        """Take the size and the components, which get new numbers."""
        if self._components or len(body) < 6 or len(body) != 6 + 3 * body[5]:
            raise ImageError(_MEANINGLESS)
        precision, height, width, count = struct.unpack_from(">BHHB", body)
        entries = [
            _Component(body[i], body[i + 1] >> 4, body[i + 1] & 15, body[i + 2])
            for i in range(6, len(body), 3)
        ]
        if precision != 8 or not width or not height or count not in (1, 3, 4):
            raise ImageError(_MEANINGLESS)
        wide, tall = max(e.across for e in entries), max(e.down for e in entries)
        for e in entries:
            fits = 0 < e.across <= 4 and 0 < e.down <= 4 and e.table < 4
            if not fits or wide % e.across or tall % e.down:
                raise ImageError(_MEANINGLESS)
        if len({e.name for e in entries}) < count:
            raise ImageError(_MEANINGLESS)
        self._check_size(width, height)
        if count == 1:
            entries = [entries[0]._replace(across=1, down=1)]
        self._components, self._is_progressive = entries, marker == 0xC2
        rows = ((i, e.across << 4 | e.down, e.table) for i, e in enumerate(entries, 1))
        self._parts += _framed(marker, body[:6] + b"".join(map(bytes, rows)))

    def quantization(self, marker: int, body: bytes) -> None:
        """Take tables of 64 numbers of 1 or 2 bytes."""
        at = 0
        while at < len(body):
            wide, number = body[at] >> 4, body[at] & 15
            at += 1 + 64 * (wide + 1)
            if wide > 1 or number > 3 or at > len(body):
                raise ImageError("damaged: a quantization table that means nothing")
            self._tables.add(number)
        self._parts += _framed(marker, body)

    def huffman(self, marker: int, body: bytes) -> None:
        """Take code tables: how many codes of 1 to 16 bits there are, and what each stands for."""
        at = 0
        while at < len(body):
            kind, counts = body[at], body[at + 1 : at + 17]
            symbols = body[at + 17 : at + 17 + sum(counts)]
            at += 17 + sum(counts)
            if kind & 0xEC or at > len(body) or not _fits(counts):
                raise ImageError("damaged: a code table that means nothing")
            if kind < 16 and max(symbols, default=0) > 15:
                raise ImageError("damaged: a code table that means nothing")
            self._tables.add(256 + kind)
        self._parts += _framed(marker, body)

    def restart(self, marker: int, body: bytes) -> None:
        """Take the number of units between restart markers."""
        if len(body) != 2:
            raise ImageError("damaged: a restart interval that means nothing")
        self._parts += _framed(marker, body)

    def add_scan(self, body: bytes, data: bytes, is_open: bool) -> None:
        """Take a scan: its header and data. The file may end in it (``is_open``)."""
        count = body[0] if body else 0
        if not self._components or not 0 < count <= 4 or len(body) != 4 + 2 * count:
            raise ImageError(_MEANINGLESS)
        names = [e.name for e in self._components]
        if not set(body[1 : 1 + 2 * count : 2]) <= set(names):
            raise ImageError(_MEANINGLESS)
        held = [names.index(name) for name in body[1 : 1 + 2 * count : 2]]
        chosen = [self._components[i] for i in held]
        before = set().union(*(places for _, places in self._scans))
        if sorted(set(held)) != held or (not self._is_progressive and before & set(held)):
            raise ImageError(_MEANINGLESS)
        if count > 1 and sum(e.across * e.down for e in chosen) > _MOST_BLOCKS:
            raise ImageError(_MEANINGLESS)
        needed = {e.table for e in chosen} | self._codes_of(body, count)
        if not needed <= self._tables or len(self._scans) == _MOST_SCANS:
            raise ImageError("damaged: a scan without its tables")
        renamed = bytearray(body)
        renamed[1 : 1 + 2 * count : 2] = bytes(i + 1 for i in held)
        self._scans.append((self._parts + _framed(_SOS, bytes(renamed)) + data, set(held)))
        self._parts, self._is_open = b"", is_open

    def _codes_of(self, body: bytes, count: int) -> set[int]:
        """Return the Huffman tables that a scan needs, as ``_tables`` numbers them."""
        start, stop, high, low = *body[-3:-1], body[-1] >> 4, body[-1] & 15
        chosen = body[2 : 2 + 2 * count : 2]
        if not self._is_progressive:
            if start or high or low:
                raise ImageError(_MEANINGLESS)
            return {256 + (c >> 4) for c in chosen} | {272 + (c & 15) for c in chosen}
        fits = stop < 64 and low < 14 and (high == 0 or high == low + 1)
        if not fits or (stop if start == 0 else count > 1 or stop < start):
            raise ImageError(_MEANINGLESS)
        if start:
            return {272 + (c & 15) for c in chosen}
        return set() if high else {256 + (c >> 4) for c in chosen}

    def finish(self) -> Essence:
        """Return the file, without a last scan that the file's end cuts, if there are several."""
        every = set(range(len(self._components)))
        is_one = not self._is_progressive and len(self._scans) == 1 and self._scans[0][1] == every
        scans = self._scans[:-1] if self._is_open and not is_one else self._scans
        if not scans or set().union(*(held for _, held in scans)) != every:
            raise ImageError("cut short: less than half of it is there")
        file = b"\xff\xd8" + self._colours() + b"".join(each for each, _ in scans) + b"\xff\xd9"
        unit = tuple(8 * max(each[i] for each in self._components) for i in (1, 2))
        return Essence(
            file,
            self._exif,
            (unit[0], unit[1]) if is_one and self._is_open else None,
            128 if len(self._components) < 4 else 64,
            not is_one and not self._has_end,
        )

    def _colours(self) -> bytes:
        """Return the segment that says what the components are, so that all decoders agree."""
        count, names = len(self._components), bytes(e.name for e in self._components)
        if count == 4:
            if self._adobe < 0:
                raise ImageError("four inks without Adobe's mark, whose white is unknown")
            return _adobe(0 if self._adobe == 0 else 2)
        is_rgb = self._adobe == 0 or (self._adobe < 0 and names == b"RGB")
        return _adobe(0) if count == 3 and is_rgb and not self._has_jfif else _JFIF


def _fits(counts: bytes) -> bool:
    """Return True if so many codes of 1 to 16 bits exist and none of them is all ones."""
    code = 0
    for length, count in enumerate(counts, 1):
        code += count
        if count and code >= 1 << length:
            return False
        code <<= 1
    return len(counts) == 16 and sum(counts) <= 256


def _adobe(transform: int) -> bytes:
    return _framed(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


_MEANINGLESS = "damaged: a header that means nothing"
_JFIF = _framed(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
_PARTS: dict[int, Callable[[_File, int, bytes], None]] = {
    _EOI: _File.end,
    _DQT: _File.quantization,
    _DHT: _File.huffman,
    _DRI: _File.restart,
    **dict.fromkeys(_FRAMES, _File.frame),
    **dict.fromkeys((0xE0, 0xE1, 0xEE), _File.app),
}
