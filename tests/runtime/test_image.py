from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from janus_edge.runtime import image as images
from janus_edge.runtime.errors import ImageError, OutputError


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


def test_thin_pictures_keep_14_pixels() -> None:
    out = images.prepare(Image.new("RGB", (1000, 3), "white"), 32)[0]
    assert (out[0] == 1).sum() == 14 * 32


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_modes(tmp_path: Path) -> None:
    red = Image.new("RGB", (20, 10), (255, 0, 0))
    half = Image.new("RGBA", (20, 10), (255, 0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    read = {
        "palette": save(tmp_path / "p.png", red.convert("P")),
        "cmyk": save(tmp_path / "c.jpg", red.convert("CMYK")),
        "grey": save(tmp_path / "g.png", red.convert("L")),
        "alpha": save(tmp_path / "a.png", half),
        "turned": save(tmp_path / "t.jpg", red, exif=exif),
        "animated": save(
            tmp_path / "m.gif", red, save_all=True, append_images=[Image.new("RGB", (20, 10))]
        ),
    }
    loaded = {name: images.load_image(path) for name, path in read.items()}
    assert {image.mode for image in loaded.values()} == {"RGB"}
    assert loaded["turned"].size == (10, 20)
    assert loaded["alpha"].getpixel((5, 5)) == (255, 255, 255)
    assert loaded["animated"].getpixel((5, 5)) == (255, 0, 0)
    assert loaded["grey"].getpixel((5, 5)) == (76, 76, 76)


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "b.png", Image.new("RGB", (300, 300)))
    monkeypatch.setattr(images, "MAX_PIXELS", 80_000)
    with pytest.raises(ImageError, match="300x300"):
        images.load_image(path)


def test_pixels_are_clipped_and_truncated() -> None:
    row = np.array([-2, -1, 0, 0.999, 1, 3], np.float32)
    out = images.to_pixels(np.tile(row, (3, 1, 1)))
    assert out[0, :, 0].tolist() == [0, 0, 127, 254, 255, 255]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.png"
    target.write_bytes(b"precious")

    def full(self: Image.Image, path: Path, **options: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        images.save_png(np.zeros((4, 4, 3), np.uint8), target, {})
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    assert target.read_bytes() == b"precious"
