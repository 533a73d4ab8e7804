"""Check a PNG file and keep only what its pixels need (PNG, third edition).

Everything else, such as texts and colour profiles, is left out unread, so its size does not matter.
Mirrors native/core/png_read.cpp; docs/prompts.md has the rules.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from janus_edge.runtime.errors import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_KINDS = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT")
# Bits per sample that each colour type may have.
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PASSES = (  # of an interlaced image: first column, first row, steps between columns and rows
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)),
    (0, 1, 1, 2),
)
_PIECE = 1 << 20  # bytes that are decompressed at once
_MOST_EXTRA = 1 << 16  # bytes after the last row


@dataclass(frozen=True)
class Header:
    """An IHDR chunk.

    Attributes:
        width: Pixels per row.
        height: Rows of pixels.
        depth: Bits per sample.
        colour: Colour type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha.
        compression: 0, zlib.
        filters: 0, the standard filters.
        interlaced: 1 if it is interlaced, else 0.
    """

    width: int
    height: int
    depth: int
    colour: int
    compression: int
    filters: int
    interlaced: int

    @classmethod
    def of(cls, body: bytes) -> Header:
        """Return the header in an IHDR chunk's body. Raises ImageError if it is not valid."""
        if len(body) != 13:
            raise ImageError("damaged: no header")
        found = cls(*struct.unpack(">IIBBBBB", body))
        fits = found.depth in _DEPTHS.get(found.colour, ()) and found.interlaced < 2
        if not fits or found.compression or found.filters or not found.width or not found.height:
            raise ImageError("damaged: a header that means nothing")
        return found

    def row_bytes(self, width: int) -> int:
        """Return the bytes of a row of ``width`` px, with the byte of its filter."""
        return 1 + (width * self.depth * _CHANNELS[self.colour] + 7) // 8

    @property
    def num_bytes(self) -> int:
        """The bytes of all rows."""
        if not self.interlaced:
            return self.row_bytes(self.width) * self.height
        total = 0
        for left, top, right, down in _PASSES:
            columns, rows = -((left - self.width) // right), -((top - self.height) // down)
            total += self.row_bytes(columns) * rows if columns > 0 and rows > 0 else 0
        return total


@dataclass(frozen=True)
class Essence:
    """The part of a file that its pixels need.

    Attributes:
        file: A complete PNG file of it; rows that are missing are zeros.
        exif: The body of the eXIf chunk.
        num_rows: How many rows are there.
    """

    file: bytes
    exif: bytes
    num_rows: int


def essence(raw: bytes, check_size: Callable[[int, int], None]) -> Essence:
    """Check a PNG file and return the part that its pixels need.

    Args:
        raw: The whole file.
        check_size: Called with the width and height before any pixel is decoded.

    Raises:
        ImageError: The file is damaged. The message has no file name.
    """
    chunks, data = _chunks(raw)
    header = Header.of(chunks.get(b"IHDR", b""))
    check_size(header.width, header.height)
    kept = [(b"IHDR", chunks[b"IHDR"])]
    if header.colour == 3:
        palette = chunks.get(b"PLTE", b"")
        if not 3 <= len(palette) <= 768 or len(palette) % 3:
            raise ImageError("damaged: no palette that fits")
        kept.append((b"PLTE", palette))
    if clear := _clear(header, chunks.get(b"tRNS", b"")):
        kept.append((b"tRNS", clear))
    count, is_perfect = _count(data, header.num_bytes)
    num_rows = header.height
    if count < header.num_bytes:
        if header.interlaced:
            raise ImageError("cut short, and interlaced")
        num_rows = count // header.row_bytes(header.width)
        check_rows(num_rows, header.height)
    if not is_perfect:
        rows = b"".join(_inflated(data, bytearray()))[: header.num_bytes]
        data = zlib.compress(rows.ljust(header.num_bytes, b"\0"), 0)
    file = SIGNATURE + b"".join(_framed(*each) for each in (*kept, (b"IDAT", data), (b"IEND", b"")))
    return Essence(file, chunks.get(b"eXIf", b""), num_rows)


def check_rows(num_rows: int, height: int) -> None:
    """Raise ImageError if less than half of the rows are there."""
    if 2 * num_rows < height:
        raise ImageError(f"cut short: {num_rows} of {height} rows are there")


def _chunks(raw: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """Return the first chunk of each kind that counts, and the image data, which may be cut."""
    found: dict[bytes, bytes] = {}
    data = []
    at = len(SIGNATURE)
    while at + 8 <= len(raw):
        size, kind = struct.unpack_from(">I4s", raw, at)
        at += 12 + size
        if kind == b"IEND":
            break
        if kind not in _KINDS:
            continue
        body = raw[at - 4 - size : at - 4]
        if at <= len(raw) and zlib.crc32(kind + body) != int.from_bytes(raw[at - 4 : at], "big"):
            raise ImageError(f"damaged: the checksum of {kind.decode()} is wrong")
        if kind == b"IDAT":
            data.append(body)
        elif at <= len(raw):
            found.setdefault(kind, body)
    return found, b"".join(data)


def _clear(header: Header, body: bytes) -> bytes:
    """Return the tRNS chunk in the numbers that Pillow compares.

    They have 8 bits; those of 16-bit grey have 16.
    """
    if header.colour == 3:
        return body if len(body) <= 256 else b""
    if header.colour > 3 or len(body) != 2 * _CHANNELS[header.colour]:
        return b""
    levels = struct.unpack(f">{len(body) // 2}H", body)
    if max(levels) >= 1 << header.depth:
        return b""
    if header.depth < 8:
        levels = tuple(level * 255 // ((1 << header.depth) - 1) for level in levels)
    if header.depth == 16 and header.colour == 2:
        levels = tuple(level >> 8 for level in levels)
    return struct.pack(f">{len(levels)}H", *levels)


def _inflated(data: bytes, behind: bytearray) -> Iterator[bytes]:
    """Yield the pieces of a zlib stream, decompressed; its end may be missing.

    The stream's checksum is not compared: PNG's chunks have their own.

    Args:
        data: The stream.
        behind: Takes the bytes after the stream's end.

    Raises:
        ImageError: It is no such stream.
    """
    head = data[:2]
    if len(head) < 2:
        return
    if head[0] & 15 != 8 or head[0] >> 4 > 7 or head[1] & 32 or int.from_bytes(head, "big") % 31:
        raise ImageError("damaged: its data is not compressed as it should be")
    stream, rest = zlib.decompressobj(-15), data[2:]
    try:
        while True:
            piece = stream.decompress(rest, _PIECE)
            rest = stream.unconsumed_tail
            yield piece
            if stream.eof or (not rest and len(piece) < _PIECE):
                behind += stream.unused_data
                return
    except zlib.error:
        raise ImageError("damaged: its data is not compressed as it should be") from None


def _count(data: bytes, expected: int) -> tuple[int, bool]:
    """Return how many bytes are decompressed, and whether every PNG reader accepts the stream."""
    count, checksum, behind = 0, 1, bytearray()
    for piece in _inflated(data, behind):
        count += len(piece)
        checksum = zlib.adler32(piece, checksum)
        if count >= expected + _MOST_EXTRA:
            raise ImageError("damaged: more data than pixels")
    return count, count == expected and behind == checksum.to_bytes(4, "big")


def _framed(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
