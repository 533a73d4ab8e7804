"""Answer: images to vectors, the prompt around them, tokens to text. Yields events."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from janus_edge.runtime.decode import Settings, decode_text
from janus_edge.runtime.engines import Engines
from janus_edge.runtime.events import Event, Text
from janus_edge.runtime.kept import keep_row, restore
from janus_edge.runtime.passes import passes_for
from janus_edge.runtime.requests import AskRequest
from janus_edge.runtime.timing import Stopwatch
from janus_edge.runtime.vision import COMPONENTS, embedded


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
    vision = COMPONENTS if request.rgb_images else ()
    with watch.part("open"):
        engines.open(*engines.decoder_names(), "text_head", *vision)
    with watch.part("vision"):
        ((prompt_TD, key_T),) = embedded(engines, [ids_T], request.rgb_images)
    tokens = _tokens(engines, request, ids_T, prompt_TD, key_T, watch)
    for text in engines.bundle.encoder.stream(watch.steps(tokens)):
        yield Text(text=text, elapsed_ms=watch.elapsed_ms)


def _tokens(
    engines: Engines,
    request: AskRequest,
    ids_T: np.ndarray,
    prompt_TD: np.ndarray,
    key_T: np.ndarray,
    watch: Stopwatch,
) -> Iterator[int]:
    """Yield the answer's tokens; keep what was computed for what follows."""
    encoder, length = engines.bundle.encoder, len(ids_T)
    most = min(request.max_tokens, engines.bundle.manifest.sizes.max_length - length)
    passes = passes_for(engines, 1, "text_head", request.parallel)
    decoder = engines.open_decoder(1, length + most)
    restore(engines.kept, decoder, 0, key_T)
    ids = ids_T.tolist()
    tokens = decode_text(
        decoder,
        engines.head("text_head"),
        engines.table("text_embed"),
        decoder.prefill(prompt_TD[None], np.array([length])),
        ids,
        most,
        encoder.stop_ids,
        request.seed,
        Settings(temperature=request.temperature, top_p=request.top_p),
        passes,
    )
    try:
        yield from tokens
    finally:
        passes.keep()
        watch.passes += passes.done
        keep_row(engines.kept, decoder, 0, np.array([*key_T, *ids[length:]], np.int64))
