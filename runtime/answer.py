"""Answer: images to vectors, the prompt around them, tokens to text. Yields events."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image as PilImage

from janus_edge.runtime import image as images
from janus_edge.runtime.decode import Settings, decode_text
from janus_edge.runtime.engines import Engines
from janus_edge.runtime.events import Event, Text
from janus_edge.runtime.requests import AskRequest
from janus_edge.runtime.timing import Stopwatch


def answer(
    engines: Engines, request: AskRequest, ids_T: np.ndarray, watch: Stopwatch
) -> Iterator[Event]:
    """Yield Text events as tokens are decoded.

    Args:
        engines: The bundle's engines.
        request: The question.
        ids_T: Token ids of its prompt.
        watch: Takes the time of each part.
    """
    bundle = engines.bundle
    sizes, encoder = bundle.manifest.sizes, bundle.encoder
    vision = ("vision_encoder", "vision_aligner") if request.images else ()
    with watch.part("open"):
        engines.open(*engines.decoder_names(), "text_head", *vision)
    text_embed, head = engines.table("text_embed"), engines["text_head"]
    prompt_1TD = text_embed[ids_T][None].astype(np.float32)
    vectors = [_see(engines, image, watch) for image in request.rgb_images]
    if vectors:
        prompt_1TD[0, ids_T == encoder.ids["image_placeholder"]] = np.concatenate(vectors)
    most = min(request.max_tokens, sizes.max_length - len(ids_T))
    tokens = decode_text(
        engines.open_decoder(1, len(ids_T) + most),
        lambda hidden_RD: head.run({"hidden": hidden_RD})[0],
        text_embed,
        prompt_1TD,
        most,
        encoder.stop_ids,
        request.seed,
        Settings(temperature=request.temperature, top_p=request.top_p),
    )
    for text in encoder.stream(watch.steps(tokens)):
        yield Text(text=text, elapsed_ms=watch.elapsed_ms)


def _see(engines: Engines, image: PilImage.Image, watch: Stopwatch) -> np.ndarray:
    """Return the vectors (N, D) that stand for an image."""
    encoder, aligner = engines["vision_encoder"], engines["vision_aligner"]
    with watch.part("vision"):
        pixels = images.prepare(image, engines.bundle.manifest.sizes.image_size)
        (features,) = encoder.run({"pixels": pixels})
        return aligner.run({"features": features})[0][0]
