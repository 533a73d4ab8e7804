"""Images that a bundle draws: what it draws from, and the pixels that its image decoder makes.

Shapes: P images, N codes, Z latent channels, H, W latent cells, S pixels per side.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from janus_edge.runtime.bundle import Bundle
from janus_edge.runtime.draw_flow import velocity_of
from janus_edge.runtime.engines import Engines
from janus_edge.runtime.events import Image
from janus_edge.runtime.files import atomic_write
from janus_edge.runtime.flow import FlowSettings, integrate
from janus_edge.runtime.image import to_pixels
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.sampling import STREAMS, normal
from janus_edge.runtime.session import Session
from janus_edge.runtime.sizes import FlowSizes

AT_ONCE = 16  # images in a file: what a stopped run draws again at most
TOGETHER = 4  # prompts of codes in a request: guided, eight rows, which share the decoder's passes
MOST_BYTES = 2**30  # of their keys and values; of a larger model one prompt at a time is drawn
ESTIMATES = 4  # of each image of a flow
REPORT_S = 10  # seconds of drawing between two reports
Report = Callable[[str], None]


@dataclass(frozen=True)
class DrawnImages:
    """What images are drawn from, and their pixels.

    Attributes:
        drawn_P: Codes (P, N) int64, or latents (P, Z, H, W) float32.
        pixels_PHWC: (P, S, S, 3) uint8.
    """

    drawn_P: np.ndarray
    pixels_PHWC: np.ndarray


def draw_images(
    bundle: Bundle, prompts: list[str], count: int, folder: Path, report: Report
) -> DrawnImages:
    """Draw images of prompts in turn; no prompt is drawn with the same seed twice.

    Those that a stopped run has left in the folder are not drawn again.

    Args:
        bundle: The bundle. A flow's image gives the estimates of ESTIMATES of its steps.
        prompts: What to draw.
        count: How many images.
        folder: Keeps the images.
        report: Called with a line now and then.

    Raises:
        JanusEdgeError: A prompt cannot be drawn.
        OSError: The folder cannot be written.
    """
    session, parts = Session(bundle), []
    for prompt in dict.fromkeys(prompts[:count]):
        session.generate_image(ImageRequest(prompt=prompt))  # refuses now what cannot be drawn
    is_flow = isinstance(bundle.manifest.sizes, FlowSizes)
    draw = (_of_flow if is_flow else _of_codes)(session)
    most = _together(bundle)
    began, told, fresh = time.monotonic(), time.monotonic(), 0
    for start in range(0, count, AT_ONCE):
        path, seeds = folder / f"images-{start:06}.npz", range(start, min(start + AT_ONCE, count))
        if (part := _read(path)) is None:
            found = [
                each for words, seed in _groups(prompts, seeds, most) for each in draw(words, seed)
            ]
            part = DrawnImages(*(np.stack(list(each)) for each in zip(*found, strict=True)))
            _write(path, part)
            fresh += len(seeds)
        parts.append(part)
        if time.monotonic() - told > REPORT_S and seeds.stop < count:
            told = time.monotonic()
            left_s = (told - began) / max(1, fresh) * (count - seeds.stop)
            report(f"images: {seeds.stop} of {count}, {left_s / 60:.0f} minutes left")
    return DrawnImages(
        np.concatenate([part.drawn_P for part in parts]),
        np.concatenate([part.pixels_PHWC for part in parts]),
    )


def _together(bundle: Bundle) -> int:
    """Return how many prompts a request has."""
    sizes = bundle.manifest.sizes
    row = 2 * sizes.num_layers * sizes.num_kv_heads * sizes.head_dim * sizes.num_drawn
    num_bytes = 2 * row * np.dtype(bundle.manifest.cache_type).itemsize
    return TOGETHER if TOGETHER * num_bytes <= MOST_BYTES else 1


def _groups(prompts: list[str], numbers: range, most: int) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield the prompts of some images, in groups without a prompt twice, and their seeds."""
    group: list[str] = []
    for number in numbers:
        prompt = prompts[number % len(prompts)]
        if prompt in group or len(group) == most:
            yield tuple(group), number - len(group)
            group = []
        group.append(prompt)
    yield tuple(group), numbers.stop - len(group)


_Drawn = Iterator[tuple[np.ndarray, np.ndarray]]


def _of_codes(session: Session) -> Callable[[tuple[str, ...], int], _Drawn]:
    """Return what yields codes (N,) and pixels of prompts."""

    def draw(prompts: tuple[str, ...], seed: int) -> _Drawn:
        for event in session.generate_image(ImageRequest(prompt=prompts, seed=seed)):
            if isinstance(event, Image) and event.codes is not None:
                yield event.codes, event.pixels

    return draw


def _of_flow(session: Session) -> Callable[[tuple[str, ...], int], _Drawn]:
    """Return what yields some of the prompts' estimates (Z, H, W), and these as pixels."""
    bundle, sizes = session.bundle, session.bundle.manifest.sizes
    assert isinstance(sizes, FlowSizes)
    engines = Engines(bundle, 0, session.device)

    def estimates(prompt: str, seed: int) -> _Drawn:
        settings = session.image_settings(ImageRequest(prompt=prompt))
        assert isinstance(settings, FlowSettings)
        ids_T = bundle.encoder.generation(prompt, (), sizes.num_image_tokens)
        velocity = velocity_of(engines, ids_T, settings.guidance_scale)
        noise = normal(np.array([seed]), sizes.latent_shape, STREAMS["latent"])
        shown = np.random.default_rng(seed).permutation(settings.num_steps)[: ESTIMATES - 1]
        for step in integrate(velocity, noise, settings):
            if step.done == settings.num_steps or step.done - 1 in shown:
                (image,) = engines["image_decoder"].run({"latent": step.denoised})[0]
                yield step.denoised[0], to_pixels(image)

    def draw(prompts: tuple[str, ...], seed: int) -> _Drawn:
        for number, prompt in enumerate(prompts, seed):
            yield from estimates(prompt, number)

    return draw


def _read(path: Path) -> DrawnImages | None:
    """Return the images of a file; None if there is none or it is not complete."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        try:
            with np.load(file, allow_pickle=False) as found:
                return DrawnImages(found["drawn"], found["pixels"])
        except Exception:  # a damaged zip or array raises many kinds of errors; it is made again
            return None


def _write(path: Path, images: DrawnImages) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, drawn=images.drawn_P, pixels=images.pixels_PHWC)
    with atomic_write(path) as part:
        part.write_bytes(content.getbuffer())
