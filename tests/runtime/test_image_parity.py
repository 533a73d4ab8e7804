"""Our image input against transformers' Janus image processor, on files of many kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.janus import image_processing_pil_janus as theirs

from janus_edge.runtime.image import load_image, prepare

SIZE = 384
LIMIT = 1 / 255  # in pixels of [0, 1]

# 25 sizes that transformers, which rounds, and the published code, which truncates, scale alike.
ALIKE = [
    *[(1, 1), (2, 1), (13, 13), (14, 14), (1, 100), (1000, 3), (3, 1000), (51, 31), (31, 51)],
    # side * (384 / longest) falls below a whole number here; side / longest * 384 does not.
    *[(47, 47), (94, 47), (173, 173), (88, 55), (55, 88)],
    *[(383, 383), (384, 384), (384, 200), (77, 384), (385, 384), (500, 501), (640, 480)],
    *[(480, 640), (768, 512), (1023, 768), (720, 1280)],
]
UNLIKE = [(100, 70), (70, 100), (500, 333), (33, 49), (1, 13), (999, 1000), (1366, 768)]

FILES: list[tuple[str, str, dict[str, Any]]] = [
    ("RGB", "png", {}),
    ("RGBA", "png", {}),
    ("LA", "png", {}),
    ("L", "jpg", {}),
    ("P", "png", {}),
    ("P", "png", {"transparency": bytes(range(256))}),
    ("P", "gif", {"transparency": 7}),
    ("1", "bmp", {}),
    ("CMYK", "jpg", {}),
    ("CMYK", "tif", {}),
    ("I;16", "png", {}),
    ("I;16", "tif", {}),
    ("I;16", "pgm", {}),
    ("YCbCr", "tif", {}),
    ("RGB", "jpg", {"exif": 3}),
    ("RGB", "jpg", {"exif": 6}),
    ("RGBA", "webp", {"exif": 8}),
]
CASES = [(size, FILES[i % len(FILES)]) for i, size in enumerate(ALIKE * 2)]


def name(value: object) -> str | None:
    match value:
        case (int(width), int(height)):
            return f"{width}x{height}"
        case (mode, suffix, dict(options)):
            return "-".join([str(mode), str(suffix), *options])
    return None


def write(folder: Path, size: tuple[int, int], mode: str, suffix: str, options: Any) -> Path:
    """Noise, the hardest to resample, in a file of that kind."""
    rng = np.random.default_rng(size[0])
    noise = rng.integers(0, 256, (size[1], size[0], 4), np.uint8)
    image = Image.fromarray(noise)
    if mode == "I;16":
        image = Image.fromarray(np.ascontiguousarray(noise).view(np.uint16)[..., 0])
    elif mode != "RGBA":
        image = image.convert("RGB").convert(mode) if mode != "LA" else image.convert("LA")
    if "exif" in options:
        exif = Image.Exif()
        exif[0x0112] = options["exif"]
        options = {"exif": exif}
    path = folder / f"image.{suffix}"
    image.save(path, **options)
    return path


@pytest.fixture(scope="module")
def processor() -> theirs.JanusImageProcessorPil:
    """Set up as the published preprocessor_config.json is; needs no torchvision."""
    return theirs.JanusImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3)


def difference(image: Image.Image, processor: theirs.JanusImageProcessorPil, size: int) -> float:
    sides = {"height": size, "width": size}
    expected = processor(image, size=sides, return_tensors="np").pixel_values
    out = prepare(image, size)
    assert out.shape == expected.shape == (1, 3, size, size)
    assert out.dtype == expected.dtype == np.float32
    return float(np.abs(out - expected).max()) / 2


def test_there_are_fifty_cases_and_every_kind_of_file() -> None:
    assert len({(size, name(file)) for size, file in CASES}) == 50
    assert {name(file) for _, file in CASES} == {name(file) for file in FILES}


@pytest.mark.parametrize(("size", "file"), CASES, ids=name)
def test_as_transformers(
    size: tuple[int, int], file: Any, processor: theirs.JanusImageProcessorPil, tmp_path: Path
) -> None:
    image = load_image(write(tmp_path, size, *file))
    turned = file[2].get("exif", 1) > 4
    assert image.mode == "RGB" and image.size == (size[::-1] if turned else size)
    assert difference(image, processor, SIZE) <= LIMIT


@pytest.mark.parametrize("size", UNLIKE, ids=name)
def test_as_transformers_told_to_truncate(
    size: tuple[int, int],
    processor: theirs.JanusImageProcessorPil,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """transformers rounds the scaled sides; the published code, which we follow, truncates."""
    image = load_image(write(tmp_path, size, "RGB", "png", {}))
    assert difference(image, processor, SIZE) > LIMIT
    monkeypatch.setattr(theirs, "round", lambda side: int(side + 1e-9), raising=False)
    assert difference(image, processor, SIZE) <= LIMIT


@pytest.mark.parametrize("size", [(1, 1), (47, 47), (64, 48), (48, 64), (1000, 3)], ids=name)
def test_as_transformers_at_another_size(
    size: tuple[int, int], processor: theirs.JanusImageProcessorPil, tmp_path: Path
) -> None:
    image = load_image(write(tmp_path, size, "RGB", "png", {}))
    assert difference(image, processor, 64) <= LIMIT
