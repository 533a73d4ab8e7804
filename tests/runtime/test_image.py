from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from janus_edge.runtime import image as images
from janus_edge.runtime.errors import ImageError


def test_a_square_of_the_right_size_is_only_scaled() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    out = images.prepare(Image.fromarray(pixels), 32)
    assert out.shape == (1, 3, 32, 32) and out.dtype == np.float32
    assert out[0].transpose(1, 2, 0) == pytest.approx(pixels / 127.5 - 1, abs=1e-6)


@pytest.mark.parametrize(
    ("size", "box"),
    [((64, 48), (0, 4, 32, 28)), ((48, 64), (4, 0, 28, 32)), ((100, 70), (0, 5, 32, 27))],
)
def test_the_rest_is_grey(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    """100x70 to 32: the height is int(22.4) = 22, centred with the smaller margin on top."""
    out = images.prepare(Image.new("RGB", size, "red"), 32)[0]
    inside = np.zeros((32, 32), bool)
    inside[box[1] : box[3], box[0] : box[2]] = True
    assert out[:, inside] == pytest.approx(np.tile([[1.0], [-1.0], [-1.0]], inside.sum()))
    assert out[:, ~inside] == pytest.approx(127 / 127.5 - 1, abs=1e-6)


def test_thin_images_keep_14_pixels() -> None:
    out = images.prepare(Image.new("RGB", (1000, 3), "white"), 32)[0]
    assert (out[0] == 1).sum() == 14 * 32


@pytest.mark.parametrize("size", [(47, 47), (94, 47), (173, 173), (88, 55)])
def test_no_pixel_is_lost_to_rounding(size: tuple[int, int]) -> None:
    """47 * (384 / 47) is below 384 in floating point; the reference divides first."""
    out = images.prepare(Image.new("RGB", size, "white"), 384)[0, 0]
    assert (out == 1).sum() == 384 * 384 * size[1] // size[0]


def test_prepare_takes_every_mode() -> None:
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    deep = Image.fromarray(np.full((32, 32), 65535, np.uint16))
    assert (images.prepare(clear, 32) == 1).all() and (images.prepare(deep, 32) == 1).all()


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def row(path: Path) -> list[tuple[int, ...]]:
    """The loaded image's first row."""
    image = images.load_image(path)
    assert image.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(image)[0].tolist()]


def grey(*levels: int) -> list[tuple[int, ...]]:
    return [(level,) * 3 for level in levels]


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG chunk by chunk, for what Pillow does not write. ``more``: type and data of others."""
    chunks = [
        b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0),
        *more,
        b"IDAT" + zlib.compress(rows),
        b"IEND",
    ]
    framed = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


UPRIGHT = np.kron(np.array([[0, 50, 100], [150, 200, 250]]), np.ones((8, 8))).astype(np.uint8)
# What the camera stored, per EXIF orientation, so that UPRIGHT is seen.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: UPRIGHT.T[::-1],
    7: UPRIGHT.T[::-1, ::-1],
    8: UPRIGHT.T[:, ::-1],
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_orientation(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    lossless = {"lossless": True} if suffix == "webp" else {}
    image = images.load_image(save(tmp_path / f"a.{suffix}", stored, exif=exif, **lossless))
    seen = np.asarray(image, np.int16)
    assert seen.shape == (16, 24, 3)
    assert np.abs(seen - UPRIGHT[..., None]).max() <= (2 if suffix == "jpg" else 0)
    assert images.ORIENTATION not in image.getexif()


def test_odd_exif_does_not_matter(tmp_path: Path) -> None:
    """Text for the image's width: ImageOps.exif_transpose fails on such photographs."""
    stored = Image.fromarray(STORED[6].copy())
    caption, width = 0x010E, 0x0100
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    exif[caption] = "a caption"
    odd = exif.tobytes()
    assert odd.count(struct.pack(">H", caption)) == 1
    odd = odd.replace(struct.pack(">H", caption), struct.pack(">H", width))
    path = save(tmp_path / "odd.jpg", stored, exif=odd)
    with Image.open(path) as opened, pytest.raises(struct.error):
        ImageOps.exif_transpose(opened)
    assert images.load_image(path).size == (24, 16)


def test_damaged_exif_does_not_matter(tmp_path: Path) -> None:
    stored = Image.fromarray(STORED[6].copy())
    path = save(tmp_path / "a.jpg", stored, dpi=(72, 72), exif=b"Exif\0\0nonsense")
    with Image.open(path) as opened, pytest.raises(SyntaxError):
        opened.getexif()
    assert images.load_image(path).size == (16, 24)


def test_alpha_is_over_white(tmp_path: Path) -> None:
    rgba = [[(255, 0, 0, 0), (255, 0, 0, 255), (0, 0, 0, 128), (200, 100, 0, 51)]]
    path = save(tmp_path / "rgba.png", Image.fromarray(np.array(rgba, np.uint8)))
    assert row(path) == [(255, 255, 255), (255, 0, 0), (127, 127, 127), (244, 224, 204)]
    la = Image.new("LA", (3, 1))
    la.putdata([(100, 0), (100, 255), (0, 128)])
    assert row(save(tmp_path / "la.png", la)) == grey(255, 100, 127)


def test_palettes(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    assert row(save(tmp_path / "p.png", image)) == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    white_green_half = [(255, 255, 255), (0, 255, 0), (127, 127, 255)]
    assert row(save(tmp_path / "a.png", image, transparency=b"\0\xff\x80")) == white_green_half
    white_green_blue = [(255, 255, 255), (0, 255, 0), (0, 0, 255)]
    assert row(save(tmp_path / "a.gif", image, transparency=0)) == white_green_blue


def test_one_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("L", (3, 1))
    image.putdata([0, 7, 8])
    assert row(save(tmp_path / "l.png", image, transparency=7)) == grey(0, 255, 8)
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (1, 2, 4))
    path = save(tmp_path / "rgb.png", image, transparency=(1, 2, 3))
    assert row(path) == [(255, 255, 255), (1, 2, 4)]


def test_black_and_white_and_grey(tmp_path: Path) -> None:
    image = Image.new("1", (3, 1))
    image.putdata([0, 255, 0])
    assert row(save(tmp_path / "1.png", image)) == grey(0, 255, 0)
    assert row(save(tmp_path / "l.png", Image.new("L", (2, 1), 76))) == grey(76, 76)


@pytest.mark.parametrize(("suffix", "order"), [("png", "<u2"), ("tif", "<u2"), ("tif", ">u2")])
def test_16_bit_grey_is_scaled_not_clipped(suffix: str, order: str, tmp_path: Path) -> None:
    levels = Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], order))
    assert row(save(tmp_path / f"a.{suffix}", levels)) == grey(0, 0, 1, 128, 255)


def test_16_bit_files_of_others(tmp_path: Path) -> None:
    """Grey becomes what Pillow makes of the same levels in colour; one level may be clear."""
    path = tmp_path / "a"
    levels = np.array([0, 255, 256, 32768, 65535], ">u2")
    path.write_bytes(b"P5 5 1 65535\n" + levels.tobytes())
    assert row(path) == grey(0, 0, 1, 128, 255)
    path.write_bytes(png(5, 1, 16, 2, b"\0" + levels.repeat(3).tobytes()))
    assert row(path) == grey(0, 0, 1, 128, 255)
    path.write_bytes(png(5, 1, 16, 0, b"\0" + levels.tobytes(), b"tRNS" + levels[1:2].tobytes()))
    assert row(path) == grey(0, 255, 1, 128, 255)


def test_cmyk(tmp_path: Path) -> None:
    """A JPEG of that kind is stored inverted, with Adobe's marker."""
    inks = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)]
    seen = [(255, 255, 255), (0, 255, 255), (255, 0, 0), (0, 0, 0)]
    image = Image.new("CMYK", (4, 1))
    image.putdata(inks)
    assert row(save(tmp_path / "a.tif", image)) == seen
    image = image.resize((64, 16), Image.Resampling.NEAREST)
    path = save(tmp_path / "a.jpg", image, quality=95)
    assert b"Adobe" in path.read_bytes()
    assert np.abs(np.array(row(path)[8::16], np.int16) - seen).max() <= 3


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_first_of_several_frames(suffix: str, tmp_path: Path) -> None:
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    lossless = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"a.{suffix}"
    save(path, red, save_all=True, append_images=[blue], **lossless)
    with Image.open(path) as opened:
        assert opened.n_frames == 2
    assert row(path) == [(255, 0, 0)] * 4


def damaged(format: str, part: int = 2) -> bytes:
    data = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(data, format)
    return data.getvalue()[: len(data.getvalue()) // part]


BOMB = png(30_000, 30_000, 8, 2, b"\0")
assert len(BOMB) < 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an image that can be read; save the image as PNG or JPEG"),
        (b"\0" * 1000, "not an image that can be read; save the image as PNG or JPEG"),
        (b"hello", "not an image that can be read; save the image as PNG or JPEG"),
        (BOMB, "30000x30000 pixels; make it smaller than 100 megapixels"),
        (png(10_001, 10_000, 8, 2, b"\0"), "10001x10000 pixels; make it smaller than 100 "),
        (png(0, 5, 8, 2, b"\0"), "damaged: a header that means nothing; give a whole PNG"),
        (damaged("PNG"), "cut short: 31 of 64 rows are there; give a whole PNG or JPEG file"),
        (damaged("JPEG", 3), "cut short: 0 of 64 rows are there; give a whole PNG or JPEG"),
        (damaged("GIF"), "damaged: image file is truncated"),
        (damaged("BMP"), "damaged: image file is truncated"),
        (damaged("TIFF"), "damaged: "),
        (damaged("EPS"), "PostScript is not read; save the image as PNG or JPEG"),
    ],
    ids=range(12),
)
def test_one_clear_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ImageError) as raised:
        images.load_image(path)
    text = str(raised.value)
    assert text.startswith(f"{path}: {message}") and "; " in text and "\n" not in text


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_32_bit_pixels_are_refused(kind: type, tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.fromarray(np.zeros((4, 4), kind)))
    with pytest.raises(ImageError, match="32-bit pixels, whose white is unknown; save it with 8"):
        images.load_image(path)


def test_folders_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="Is a directory; give a"):
        images.load_image(tmp_path)
    with pytest.raises(ImageError, match="No such file or directory; give a"):
        images.load_image(tmp_path / "none.png")


def test_the_limit_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own, lower limit only warns, and is not heard; ours needs no Pillow limit."""
    path = save(tmp_path / "b.png", Image.new("RGB", (300, 300)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80_000)
    assert images.load_image(path).size == (300, 300)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(images, "MAX_PIXELS", 80_000)
    with pytest.raises(ImageError, match="300x300"):
        images.load_image(path)


def test_any_damage_is_an_image_error(tmp_path: Path) -> None:
    """Changed bytes give an image or one line, whatever Pillow's readers raise."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    path = tmp_path / "a"
    for format in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        data = io.BytesIO()
        noise = Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8))
        noise.save(data, format, exif=exif) if format != "BMP" else noise.save(data, format)
        for _ in range(60):
            content = bytearray(data.getvalue())
            for place in rng.integers(0, min(len(content), 200), 3):
                content[place] = rng.integers(0, 256)
            path.write_bytes(content)
            try:
                assert images.load_image(path).mode == "RGB"
            except ImageError as error:
                assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


def test_pixels_are_clipped_and_truncated() -> None:
    row = np.array([-2, -1, 0, 0.999, 1, 3], np.float32)
    out = images.to_pixels(np.tile(row, (3, 1, 1)))
    assert out[0, :, 0].tolist() == [0, 0, 127, 254, 255, 255]
