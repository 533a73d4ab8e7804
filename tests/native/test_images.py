"""je_image_load and je_image_save beside Pillow."""

from __future__ import annotations

import ctypes
import io
import os
import re
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from janus_edge.runtime.errors import ImageError, ImageWarning
from janus_edge.runtime.image import load_image
from tests.make_vectors import pixels
from tests.native import capi
from tests.native.capi import Api, ApiError


def load(api: Api, path: Path) -> np.ndarray:
    image = capi.Image()
    api.check(api.je.je_image_load(str(path).encode(), ctypes.byref(image)))
    found = capi.array(image)
    api.je.je_image_free(ctypes.byref(image))
    assert not image.pixels and image.width == 0
    return found


def image(mode: str) -> Image.Image:
    if mode == "P":
        return Image.fromarray(pixels(19, 13, 3, 1)).quantize(16)
    if mode == "I;16":
        deep = pixels(19, 13, 1, 2)[..., 0].astype(np.uint16) * 251 + 3
        return Image.fromarray(deep)
    if mode == "1":
        return Image.fromarray(pixels(19, 13, 1, 3)[..., 0] > 99)
    raw = pixels(19, 13, {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode], 4)
    return Image.fromarray(raw[..., 0] if mode == "L" else raw, mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_png_is_read_as_pillow_reads_it(api: Api, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    image(mode).save(path)
    assert np.array_equal(load(api, path), np.asarray(load_image(path)))


def test_a_palette_with_transparency(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image("P").save(path, transparency=3)
    assert np.array_equal(load(api, path), np.asarray(load_image(path)))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("depth", [2, 4, 8])
def test_indices_outside_of_the_palette(api: Api, tmp_path: Path, depth: int) -> None:
    """Black, as Pillow has it."""
    path, count = tmp_path / "a.png", 8 // depth  # indices a byte
    header = struct.pack(">IIBBBBB", 4 * count, 1, depth, 3, 0, 0, 0)
    body = zlib.compress(b"\x00" + bytes([0x1B, 0xE4, 0xFF, 0x01]))
    chunks = ((b"IHDR", header), (b"PLTE", b"\xff\x80\x20\x10\xf0\xff"), (b"tRNS", b"\x80"))
    chunks += ((b"IDAT", body), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks))
    found = load(api, path)
    assert np.array_equal(found, np.asarray(load_image(path)))
    assert {tuple(colour) for colour in found[0].tolist()} >= {(0, 0, 0), (16, 240, 255)}


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 100}]
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_close_to_pillows(
    api: Api, tmp_path: Path, mode: str, options: dict[str, int]
) -> None:
    """Decoders may round otherwise, and spread colours of half the size otherwise."""
    path, smooth = tmp_path / "a.jpg", Image.new("L", (64, 48))
    smooth = Image.linear_gradient("L").resize((64, 48)).convert(mode)
    smooth.save(path, **options)
    found, expected = load(api, path).astype(int), np.asarray(load_image(path)).astype(int)
    assert found.shape == expected.shape and np.abs(found - expected).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_images_are_upright(api: Api, tmp_path: Path, orientation: int, suffix: str) -> None:
    path, exif = tmp_path / f"a.{suffix}", Image.Exif()
    exif[0x0112] = orientation
    corner = Image.new("RGB", (40, 24), "white")
    corner.paste("red", (0, 0, 16, 8))
    corner.save(path, exif=exif, quality=100)
    found, expected = load(api, path).astype(int), np.asarray(load_image(path)).astype(int)
    assert found.shape == expected.shape and np.abs(found - expected).max() <= 40
    assert np.abs(found - expected).mean() < 2


@pytest.mark.parametrize("kind", [1, 3, 4])
def test_turned_as_a_number_of_any_size(api: Api, tmp_path: Path, kind: int) -> None:
    """A short or a long, a byte is none; bytes may fill up the space before its segment."""
    body = b"Exif\0\0MM\0*" + struct.pack(">IHHHI", 8, 1, 0x0112, kind, 1)
    body += (6).to_bytes({1: 1, 3: 2, 4: 4}[kind], "big").ljust(8, b"\0")
    segment = b"\xff\xff\xff\xe1" + struct.pack(">H", 2 + len(body)) + body
    file, path = io.BytesIO(), tmp_path / "a.jpg"
    Image.new("RGB", (40, 24)).save(file, format="JPEG")
    path.write_bytes(file.getvalue()[:2] + segment + file.getvalue()[2:])
    assert load(api, path).shape == np.asarray(load_image(path)).shape
    assert load(api, path).shape == ((24, 40, 3) if kind == 1 else (40, 24, 3))


def bytes_of(suffix: str) -> bytes:
    file = io.BytesIO()
    image("RGB").save(file, format={"png": "PNG", "jpg": "JPEG"}[suffix])
    return file.getvalue()


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_damage_is_one_line(api: Api, tmp_path: Path, suffix: str) -> None:
    """Cut it is refused, or read with a note; with a flipped bit a JPEG may still be an image."""
    raw, path = bytes_of(suffix), tmp_path / f"a.{suffix}"
    for size in range(0, len(raw) - 2, 7):
        path.write_bytes(raw[:size])
        try:
            load(api, path)
        except ApiError as error:
            assert error.status == capi.E_IMAGE and "\n" not in str(error)
            assert str(error).startswith(f"{path}: ") and str(error).count("; ") == 1
        else:
            said = api.je.je_error().decode()
            assert not said or re.match(rf"{path}: cut short: \d+ of 13 rows are there, the", said)
            assert size > 40 * len(raw) / 100
    for at in range(len(raw)):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 16]) + raw[at + 1 :])
        try:
            load(api, path)
        except ApiError as error:
            assert error.status == capi.E_IMAGE
    path.write_bytes(raw)
    load(api, path)
    assert api.je.je_error() == b""


@pytest.mark.parametrize("part", [0.7, 0.9])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_cut_file_is_read_as_python_reads_it(
    api: Api, tmp_path: Path, suffix: str, part: float
) -> None:
    path, noise = tmp_path / f"a.{suffix}", pixels(64, 160, 3, 9)
    options = {"quality": 95, "subsampling": 0} if suffix == "jpg" else {}
    Image.fromarray(noise).save(path, **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    found = load(api, path).astype(int)
    assert b"of 160 rows are there, the rest is grey" in api.je.je_error()
    with pytest.warns(ImageWarning, match="of 160 rows are there, the rest is grey"):
        expected = np.asarray(load_image(path)).astype(int)
    differing = (np.abs(found - expected).max(axis=2) > (4 if suffix == "jpg" else 0)).sum()
    assert differing <= (64 if suffix == "jpg" else 0)  # the unit that is cut


def test_what_is_no_image(api: Api, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello", encoding="utf-8")
    huge = bytearray(bytes_of("png"))
    huge[16:24] = (20000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "huge.png").write_bytes(huge)
    (tmp_path / "a.svg").write_text("<svg/>", encoding="utf-8")
    for name, says in (
        ("a.txt", "not an image"),
        ("a.svg", "SVG is not read; save the image as PNG or JPEG"),
        ("pipe", "Not a regular file"),
        ("/dev/zero", "Not a regular file"),
        ("none.png", "No such file"),
        (".", "Is a directory"),
        ("huge.png", "100 megapixels"),
    ):
        with pytest.raises(ApiError, match=says) as caught:
            load(api, tmp_path / name)
        assert caught.value.status == capi.E_IMAGE


def save(api: Api, path: Path, raw: np.ndarray, *texts: str) -> None:
    image = capi.image(raw)
    words = (ctypes.c_char_p * len(texts))(*(text.encode() for text in texts))
    done = api.je.je_image_save(
        str(path).encode(), ctypes.byref(image), words, ctypes.c_size_t(len(texts) // 2)
    )
    api.check(done)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_saved_images(api: Api, tmp_path: Path, channels: int) -> None:
    path, raw = tmp_path / "a.png", pixels(33, 21, channels, 6)
    save(api, path, raw, "prompt", "drei Kätzchen\n日本", "seed", "7")
    with Image.open(path) as opened:
        opened.load()
        assert opened.text == {"prompt": "drei Kätzchen\n日本", "seed": "7"}
        expected = Image.fromarray(raw if channels > 1 else raw[..., 0])
        if channels == 4:
            expected = Image.alpha_composite(Image.new("RGBA", expected.size, "white"), expected)
        assert np.array_equal(np.asarray(opened), np.asarray(expected.convert("RGB")))
    assert np.array_equal(load(api, path), np.asarray(load_image(path)))
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("key", ["", "k" * 80, " a", "a ", "a  b", "a\nb", "Größe", "a\x7f"])
def test_keys_are_those_of_png(api: Api, tmp_path: Path, key: str) -> None:
    with pytest.raises(ApiError, match="a key of texts is") as caught:
        save(api, tmp_path / "a.png", pixels(3, 3, 3, 6), key, "text")
    assert caught.value.status == capi.E_ARGUMENT and not list(tmp_path.iterdir())


def test_blocks_of_fixed_and_own_codes_in_turn(api: Api, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 40, (24, 31), np.uint8)
    rows[:, 0] = 0  # no filter
    parts = np.array_split(rows, 6)
    stream = b"\x78\x01"
    for number, part in enumerate(parts):
        kind = zlib.Z_FIXED if number in (0, 1, 3, 5) else zlib.Z_DEFAULT_STRATEGY
        packer = zlib.compressobj(9, wbits=-15, strategy=kind)
        stream += packer.compress(part.tobytes())
        stream += packer.flush(zlib.Z_FINISH if number == 5 else zlib.Z_FULL_FLUSH)
    stream += zlib.adler32(rows.tobytes()).to_bytes(4, "big")
    header = struct.pack(">IIBBBBB", 10, 24, 8, 2, 0, 0, 0)
    file = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")
    )
    (tmp_path / "a.png").write_bytes(file)
    assert np.array_equal(load(api, tmp_path / "a.png"), rows[:, 1:].reshape(24, 10, 3))


def test_without_half_of_its_rows_no_memory_is_taken(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 16, 6, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"\x78\x01"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ApiError, match="cut short: 0 of 10000 rows are there"):
        load(api, path)
    with pytest.raises(ImageError, match="cut short: 0 of 10000 rows are there"):
        load_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 400_000  # KiB


def test_nothing_is_half_written(api: Api, tmp_path: Path) -> None:
    (tmp_path / "there.png").write_bytes(b"old")
    for path in (tmp_path / "none" / "a.png", tmp_path):
        with pytest.raises(ApiError, match=r"choose another place|is a folder") as caught:
            save(api, path, pixels(4, 4, 3, 1))
        assert caught.value.status == capi.E_OUTPUT
    with pytest.raises(ApiError, match="1 to 79"):
        save(api, tmp_path / "there.png", pixels(4, 4, 3, 1), "", "x")
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("there.png", b"old")]
