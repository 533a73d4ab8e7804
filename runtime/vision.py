"""Images to the vectors that stand for them in a prompt: encoder and aligner, run as one step.

Shapes: N vectors per image, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image as PilImage

from janus_edge.runtime import image as images
from janus_edge.runtime.engines import Engines
from janus_edge.runtime.timed_engine import check_finite

COMPONENTS = ("vision_encoder", "vision_aligner")


def vision_step(engines: Engines) -> Callable[[PilImage.Image], np.ndarray]:
    """Return the function from an RGB image to its vectors (N, D) float32.

    The aligner reads the encoder's features where the encoder has written them, on the device they
    run on. What the function returns is valid until its next call.

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

    def embed(image: PilImage.Image) -> np.ndarray:
        pixels[:] = images.prepare(image, sizes.image_size)
        encode()
        align()
        check_finite("vision_aligner", (embeds,))
        return embeds[0]

    return embed
