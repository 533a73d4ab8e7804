"""Images to the vectors that stand for them in a prompt: encoder and aligner, run as one step.

Shapes: N vectors per image, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image as PilImage

from janus_edge.runtime.engines import Engines
from janus_edge.runtime.image import prepare
from janus_edge.runtime.kept import image_digest, image_key
from janus_edge.runtime.timed_engine import check_finite

COMPONENTS = ("vision_encoder", "vision_aligner")


def vision_step(engines: Engines) -> Callable[[PilImage.Image], tuple[np.ndarray, bytes]]:
    """Return the function from an RGB image to its vectors (N, D) float32 and its digest.

    The aligner reads the encoder's features where the encoder has written them, on the device they
    run on. Vectors of images that were seen before are kept.

    Raises:
        BundleError: A component cannot be opened, or computes what is no finite number.
    """
    encoder, aligner = (engines[name] for name in COMPONENTS)
    components, sizes = engines.bundle.manifest.components, engines.bundle.manifest.sizes
    pixels = np.empty((1, 3, sizes.image_size, sizes.image_size), np.float32)
    shape = (1, *components["vision_encoder"].outputs[0].shape[1:])
    features = encoder.zeros(tuple(map(int, shape)), "float32")
    embeds = np.empty((1, sizes.num_image_tokens, sizes.hidden_size), np.float32)
    encode = encoder.bind({"pixels": pixels}, {"features": features})
    align = aligner.bind({"features": features}, {"embeds": embeds})

    def embed(image: PilImage.Image) -> tuple[np.ndarray, bytes]:
        pixels[:] = prepare(image, sizes.image_size)
        digest = image_digest(pixels)
        vectors = engines.kept.image(digest)
        if vectors is None:
            encode()
            align()
            check_finite("vision_aligner", (embeds,))
            vectors = embeds[0].copy()
            engines.kept.keep_image(digest, vectors)
        return vectors, digest

    return embed


def embedded(
    engines: Engines, prompts: list[np.ndarray], images: Sequence[PilImage.Image]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return each prompt's embeddings (T, D) float32, and its key (T,) among kept contexts.

    Args:
        engines: The bundle's engines.
        prompts: Token ids (T,), with places for the vectors of all images or of none.
        images: The images, in order.

    Raises:
        BundleError: A component cannot be opened, or computes what is no finite number.
    """
    table, placeholder = engines.table("text_embed"), engines.bundle.encoder.placeholder
    embed = vision_step(engines) if images else None
    seen = [embed(image) for image in images] if embed else []
    found = []
    for ids_T in prompts:
        embeds_TD, key_T, places = (
            table[ids_T].astype(np.float32),
            ids_T.copy(),
            ids_T == placeholder,
        )
        if seen and places.any():
            embeds_TD[places] = np.concatenate([vectors for vectors, _ in seen])
            key_T[places] = np.concatenate([np.full(len(v), image_key(d)) for v, d in seen])
        found.append((embeds_TD, key_T))
    return found
