"""A drawn image with what it takes to draw it again: seed, settings, model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PilImage

from janus_edge.runtime.arguments import PathOrName, checked
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.events import Image
from janus_edge.runtime.image_file import PNG, check_fit, encode, format_of, read_texts, save_image
from janus_edge.runtime.requests import SETTINGS, ImageRequest
from janus_edge.runtime.session import Session


def texts_of(session: Session, request: ImageRequest, index: int, seed: int) -> dict[str, str]:
    """Return what it takes to draw an image again, to store in its file.

    Args:
        session: What draws it.
        request: Its request.
        index: Its place in the request.
        seed: Its seed.
    """
    settings, manifest = session.image_settings(request), session.bundle.manifest
    return {
        "Software": manifest.created_by,
        "prompt": request.prompts[index // request.num_images],
        "seed": str(seed),
        **{name: str(value) for name, value in dataclasses.asdict(settings).items()},
        **({"approximate": "yes"} if is_approximate(settings) else {}),
        **({"conversation": "yes"} if request.history else {}),
        "model": manifest.name,
        "model_sha256": session.bundle.sha256,
    }


def settings_in(path: Path) -> dict[str, Any]:
    """Return what an image file says it was drawn with: an ImageRequest's values, and ``model``.

    Args:
        path: A file that ``generate`` or ``DrawnImage.save`` wrote.

    Raises:
        ImageError: It cannot be read.
        OptionError: It does not say, or says what no request takes.
    """
    texts = read_texts(path)
    if not {"prompt", "seed"} <= set(texts):
        raise OptionError(f"{path}: has no prompt and seed inside; name an image of janus-edge")
    if "conversation" in texts:
        raise OptionError(f"{path}: followed a conversation, which it does not hold; draw another")
    found: dict[str, Any] = {
        name: texts[name] for name in ("prompt", "model", "model_sha256") if name in texts
    }
    for name, kind in {"seed": int, **SETTINGS}.items():
        try:
            found |= {name: kind(texts[name])} if name in texts else {}
        except ValueError:
            raise OptionError(f"{path}: its {name} is {texts[name][:40]}, not a number") from None
    return found


def is_approximate(settings: object) -> bool:
    """Return True if an image of these settings is not the exact one."""
    return bool(getattr(settings, "is_approximate", False))


@dataclass(frozen=True, kw_only=True)
class DrawnImage:
    """A drawn image. A notebook shows it; ``ask`` takes it.

    Attributes:
        pixels: (H, W, 3) uint8.
        prompt: What was drawn.
        seed: Its seed: the same prompt, seed and settings draw the same image.
        settings: All settings that it was drawn with, by name.
        model: Name of the bundle.
        event: The event that the session yielded.
        texts: What a file of it holds besides the pixels, by name.
    """

    pixels: np.ndarray = field(repr=False)
    prompt: str
    seed: int
    settings: dict[str, Any]
    model: str
    event: Image = field(repr=False)
    texts: dict[str, str] = field(repr=False)

    @property
    def image(self) -> PilImage.Image:
        """The image as a PIL image, RGB; each call returns a new one."""
        return PilImage.fromarray(self.pixels.copy())

    @checked
    def save(self, path: PathOrName) -> None:
        """Write a PNG, JPEG or WebP file with prompt, seed and settings inside.

        Args:
            path: The file; its suffix chooses the format. A file that is there is replaced.

        Raises:
            OptionError: The suffix is of no known format, or the prompt is too long for a JPEG.
            OutputError: The file cannot be written.
        """
        file = Path(path)
        check_fit(format_of(file), self.texts)
        save_image(self.pixels, file, self.texts)

    def _repr_png_(self) -> bytes:
        """Return the image as a notebook shows it."""
        return encode(self.pixels, PNG, self.texts)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the pixels, as NumPy asks for them."""
        return np.array(self.pixels, dtype=dtype, copy=True if copy is None else copy)


def drawn_image(session: Session, request: ImageRequest, event: Image) -> DrawnImage:
    """Return the image of an event with what it was drawn with.

    Args:
        session: What drew it.
        request: Its request.
        event: The event.
    """
    texts = texts_of(session, request, event.index, event.seed)
    return DrawnImage(
        pixels=event.pixels,
        prompt=texts["prompt"],
        seed=event.seed,
        settings=dataclasses.asdict(session.image_settings(request)),
        model=texts["model"],
        event=event,
        texts=texts,
    )
