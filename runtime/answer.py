"""Answer: images to vectors, the prompt around them, tokens to text. Yields events."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from janus_edge.runtime.decode import Settings, decode_text
from janus_edge.runtime.engines import Engines
from janus_edge.runtime.events import Event, Text
from janus_edge.runtime.requests import AskRequest
from janus_edge.runtime.timing import Stopwatch
from janus_edge.runtime.vision import COMPONENTS, vision_step


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
    vision = COMPONENTS if request.rgb_images else ()
    with watch.part("open"):
        engines.open(*engines.decoder_names(), "text_head", *vision)
    text_embed = engines.table("text_embed")
    prompt_1TD = text_embed[ids_T][None].astype(np.float32)
    if request.rgb_images:
        with watch.part("vision"):
            embed = vision_step(engines)
            vectors = [embed(image).copy() for image in request.rgb_images]
        prompt_1TD[0, ids_T == encoder.ids["image_placeholder"]] = np.concatenate(vectors)
    most = min(request.max_tokens, sizes.max_length - len(ids_T))
    tokens = decode_text(
        engines.open_decoder(1, len(ids_T) + most),
        engines.head("text_head"),
        text_embed,
        prompt_1TD,
        most,
        encoder.stop_ids,
        request.seed,
        Settings(temperature=request.temperature, top_p=request.top_p),
    )
    for text in encoder.stream(watch.steps(tokens)):
        yield Text(text=text, elapsed_ms=watch.elapsed_ms)
