"""Small sound PNG and JPEG files, and what becomes of files: cuts, flips, other chunks."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def chunks(file: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and body of each."""
    found, at = [], len(SIGNATURE)
    while at + 12 <= len(file):
        size = int.from_bytes(file[at : at + 4], "big")
        found.append((file[at + 4 : at + 8], file[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def png_of(parts: list[tuple[bytes, bytes]]) -> bytes:
    return SIGNATURE + b"".join(chunk(*part) for part in parts)


def raw_png(rng: random.Random, depth: int, colour: int, interlaced: bool) -> bytes:
    """Of any depth and colour type, with filters and a transparent level or palette."""
    width, height = rng.randint(1, 23), rng.randint(1, 19)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    rows = b""
    for left, top, right, down in (*_PASSES, (0, 1, 1, 2)) if interlaced else ((0, 0, 1, 1),):
        columns, count = -((left - width) // right), -((top - height) // down)
        for _ in range(count if columns > 0 else 0):
            rows += bytes([rng.randint(0, 4)]) + rng.randbytes((columns * bits + 7) // 8)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    parts = [(b"IHDR", header)]
    if colour == 3:
        parts.append((b"PLTE", rng.randbytes(3 * rng.randint(1, min(256, 1 << depth)))))
    if colour in (0, 2, 3) and rng.random() < 0.6:
        top = min(255, (1 << depth) - 1)
        clear = {0: bytes([0, rng.randint(0, top)]), 2: rng.randbytes(6), 3: rng.randbytes(3)}[
            colour
        ]
        parts.append((b"tRNS", clear))
    data = zlib.compress(rows, rng.choice((0, 1, 6, 9)))
    at = rng.randint(0, len(data))
    return png_of([*parts, (b"IDAT", data[:at]), (b"IDAT", data[at:]), (b"IEND", b"")])


def pngs(rng: random.Random) -> Iterator[bytes]:
    """One of every kind."""
    for colour, depths in {
        0: (1, 2, 4, 8, 16),
        2: (8, 16),
        3: (1, 2, 4, 8),
        4: (8, 16),
        6: (8, 16),
    }.items():
        for depth in depths:
            for interlaced in (False, True):
                yield raw_png(rng, depth, colour, interlaced)


def smooth(width: int, height: int, mode: str) -> Image.Image:
    """Content that decoders agree on."""
    y, x = np.mgrid[:height, :width]
    planes = [(x * 3 + y * 2) % 256, 255 - (x + 2 * y) % 256, (2 * x + y) % 256, (x + y) % 200]
    pixels = np.stack(planes, -1).astype(np.uint8)
    grey = Image.fromarray(np.ascontiguousarray(pixels[..., 0]))
    return (
        grey
        if mode == "L"
        else Image.fromarray(np.ascontiguousarray(pixels[..., : len(mode)]), mode)
    )


def jpegs() -> Iterator[bytes]:
    """Baseline and progressive, with smaller colours, restarts, an orientation, a large profile."""
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: tuple[tuple[str, dict[str, object]], ...] = (
        ("L", {}),
        ("RGB", {"subsampling": 0}),
        ("RGB", {"subsampling": 1, "exif": exif}),
        ("RGB", {"subsampling": 2, "icc_profile": bytes(70_000)}),
        ("RGB", {"restart_marker_rows": 1}),
        ("RGB", {"restart_marker_blocks": 3, "optimize": True}),
        ("RGB", {"progressive": True}),
        ("L", {"progressive": True, "optimize": True}),
        ("CMYK", {}),
    )
    for mode, options in kinds:
        file = io.BytesIO()
        smooth(75, 53, mode).save(file, format="JPEG", quality=90, **options)
        yield file.getvalue()


def mutated(file: bytes, rng: random.Random) -> bytes:
    """One to three of the things that happen to files."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        file = rng.choice(_MUTATIONS)(file, rng)
    return file


def _cut(file: bytes, rng: random.Random) -> bytes:
    return file[: rng.randrange(len(file) + 1)]


def _flip(file: bytes, rng: random.Random) -> bytes:
    if not file:
        return file
    changed = bytearray(file)
    changed[rng.randrange(len(file))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _put(file: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(file) + 1)
    return file[:at] + rng.choice((b"\0", b"\xff", b"\xff\xd9", rng.randbytes(3))) + file[at:]


def _drop(file: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(file) + 1)
    return file[:at] + file[at + rng.randint(1, 40) :]


def _again(file: bytes, rng: random.Random) -> bytes:
    at, to = (rng.randrange(len(file) + 1) for _ in range(2))
    return file[:to] + file[at : at + rng.randint(1, 60)] + file[to:]


def _chunk(file: bytes, rng: random.Random) -> bytes:
    """Another PNG chunk, with a checksum that is right."""
    parts = chunks(file) if file.startswith(SIGNATURE) else []
    if not parts:
        return _flip(file, rng)
    index = rng.randrange(len(parts))
    kind, body = parts[index]
    body = rng.choice((_flip, _cut, _put, _drop))(body, rng)
    parts[index] = rng.choice(((kind, body), (b"teXt", body)))
    return png_of(parts)


_MUTATIONS = (_cut, _flip, _flip, _put, _drop, _again, _chunk, _chunk)
