"""Files of the field: large texts, missing ends, other formats, and what is no file."""

from __future__ import annotations

import io
import os
import random
import socket
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from janus_edge.runtime.errors import ImageError, ImageWarning
from janus_edge.runtime.image import decode_image, load_image
from tests.image_files import SIGNATURE, chunks, jpegs, png_of, pngs, smooth


def saved(
    kind: str, mode: str = "RGB", size: tuple[int, int] = (64, 80), **options: object
) -> bytes:
    file = io.BytesIO()
    smooth(*size, mode).save(file, format=kind, **options)
    return file.getvalue()


def pixels(file: bytes) -> np.ndarray:
    """Of a file that is read without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.asarray(decode_image(file, "a"))


def refused(file: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(file, "a")
    assert str(caught.value).startswith("a: ") and "\n" not in str(caught.value)
    return str(caught.value)


HUGE = b"key\0\0" + zlib.compress(bytes(5 << 20))


@pytest.mark.parametrize(
    "extra",
    [
        [(b"zTXt", HUGE)],
        [(b"iCCP", HUGE)],
        [(b"zTXt", HUGE)] * 20,
        [(b"iTXt", b"key\0\1\0\0\0" + HUGE[5:])],
        [(b"tEXt", b"key\0" + bytes(2 << 20)), (b"prVt", b"?"), (b"gAMA", b"")],
    ],
)
def test_what_stands_beside_the_pixels_does_not_matter(extra: list[tuple[bytes, bytes]]) -> None:
    """Pillow's limits on it are for all of a process, and refused such files."""
    plain = saved("PNG")
    first, *rest = chunks(plain)
    assert np.array_equal(pixels(png_of([first, *extra, *rest])), pixels(plain))


def test_every_kind_of_png_as_pillow_has_it() -> None:
    """But for transparent levels of other than 8 bits, which it misreads."""
    for file in pngs(random.Random(5)):
        header = dict(chunks(file))[b"IHDR"]
        if b"tRNS" in dict(chunks(file)) and header[8] != 8:
            continue
        with Image.open(io.BytesIO(file)) as opened:
            if opened.mode.startswith("I"):
                continue  # which has no 8-bit form of its own
            clear = opened.convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        expected = np.asarray(Image.alpha_composite(white, clear).convert("RGB"))
        assert np.array_equal(pixels(file), expected), header


def test_a_transparent_level_of_few_bits() -> None:
    header = b"\0\0\0\4\0\0\0\1\2\0\0\0\0"  # four levels of 2 bits
    data = zlib.compress(bytes([0, 0b00011011]))
    clear = (b"tRNS", b"\0\2")
    found = pixels(png_of([(b"IHDR", header), clear, (b"IDAT", data), (b"IEND", b"")]))
    assert found[0, :, 0].tolist() == [0, 85, 255, 255]


@pytest.mark.parametrize("part", [0.55, 0.75, 0.95])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_cut_file(kind: str, part: float) -> None:
    """Its rows are those of the whole one; the others are grey."""
    noise = np.random.default_rng(1).integers(0, 256, (160, 64, 3), np.uint8)
    file, options = io.BytesIO(), {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(noise).save(file, format=kind, **options)
    whole = file.getvalue()
    with pytest.warns(ImageWarning, match=r"^a: cut short: \d+ of 160 rows are there, the rest is"):
        found = np.asarray(decode_image(whole[: int(len(whole) * part)], "a"))
    rows = 160 - int((found == 128).all(axis=(1, 2))[::-1].argmin())
    assert abs(rows - 160 * part) < 16 and (found[rows:] == 128).all()
    assert np.array_equal(found[: rows - 8], pixels(whole)[: rows - 8])


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_less_than_half_is_refused(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (160, 64, 3), np.uint8))
    file = io.BytesIO()
    noise.save(file, format=kind)
    for part in (0.1, 0.2, 0.3, 0.45):
        raw = file.getvalue()
        assert "cut short: " in refused(raw[: int(len(raw) * part)])


@pytest.mark.parametrize("index", range(9))
def test_without_its_last_bytes(index: int) -> None:
    """All the pixels are there; of several scans the last one counts as cut."""
    raw = list(jpegs())[index]
    whole = pixels(raw)
    for missing in (1, 2):
        if b"\xff\xc2" in raw:
            with pytest.warns(ImageWarning, match="its last scans are missing"):
                found = np.asarray(decode_image(raw[:-missing], "a"))
            assert np.abs(found.astype(int) - whole).mean() < 4
        else:
            assert np.array_equal(pixels(raw[:-missing]), whole)
    png = saved("PNG")
    assert all(np.array_equal(pixels(png[:-n]), pixels(png)) for n in (1, 4, 8, 12, 14))


def test_a_progressive_file_needs_its_first_scans() -> None:
    raw = saved("JPEG", progressive=True)
    first = raw.index(b"\xff\xda")
    second = raw.index(b"\xff\xda", first + 2)
    assert "cut short: less than half" in refused(raw[: first + 40])
    with pytest.warns(ImageWarning, match="coarse"):
        assert decode_image(raw[: second + 200], "a").size == (64, 80)


def test_bombs() -> None:
    """Data that unpacks to far more than the pixels is not unpacked to its end."""
    first, *_ = chunks(saved("PNG", size=(1, 1)))
    data = zlib.compress(bytes(64 << 20), 9)
    assert "more data than pixels" in refused(png_of([first, (b"IDAT", data), (b"IEND", b"")]))


def test_wrong_parts_are_refused() -> None:
    first, data, end = chunks(saved("PNG"))
    wrong = SIGNATURE + png_of([first])[8:-1] + b"?" + png_of([data, end])[8:]
    assert "the checksum of IHDR is wrong" in refused(wrong)
    assert "no header" in refused(png_of([data, end]))
    assert "not compressed as it should be" in refused(png_of([first, (b"IDAT", b"\0" * 99), end]))
    jpeg = saved("JPEG")
    assert "rare kind" in refused(jpeg.replace(b"\xff\xc0", b"\xff\xc9"))
    assert "without its tables" in refused(jpeg.replace(b"\xff\xdb", b"\xff\xfe"))
    assert "four inks without" in refused(saved("JPEG", "CMYK").replace(b"Adobe", b"adobe"))


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\xff\x0a\0", "JPEG XL"),
        (b"<?xml version='1.0'?><svg>", "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"\0\0\0\x18ftypisom", "MP4 video"),
        (b"<!DOCTYPE html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
    ],
)
def test_other_formats_are_named(head: bytes, name: str) -> None:
    assert refused(head) == f"a: {name} is not read; save the image as PNG or JPEG"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("https://example.org/a.png", "https://example.org/a.png: addresses are not read"),
        (Path("https://example.org/a.png"), "https://example.org/a.png: addresses are not read"),
        ("file:///tmp/a.png", "file:///tmp/a.png: addresses are not read"),
        (Path("file:///tmp/a.png"), "file:///tmp/a.png: addresses are not read"),
        ("c:/a.png", "c:/a.png: No such file"),
    ],
)
def test_addresses(given: str | Path, said: str) -> None:
    with pytest.raises(ImageError) as caught:
        load_image(given)
    assert str(caught.value).startswith(said)


def test_what_is_no_file(tmp_path: Path) -> None:
    """A pipe, a device without an end, a socket, too large a file: none hangs."""
    os.mkfifo(tmp_path / "pipe")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    with (tmp_path / "large").open("wb") as file:
        file.truncate((1 << 30) + 1)
    paths = [
        tmp_path / "pipe",
        tmp_path / "socket",
        Path("/dev/zero"),
        tmp_path / "large",
        tmp_path,
    ]
    program = "import sys; from janus_edge import load_image\nload_image(sys.argv[1])"
    for path in paths:
        done = subprocess.run(
            [sys.executable, "-c", program, path], capture_output=True, encoding="utf-8", timeout=60
        )
        line = done.stderr.splitlines()[-1]
        assert f"ImageError: {path}: " in line, line
    listening.close()
