"""Small decoders in int4, as our own library runs them."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from janus_edge.export.bundle.preview import DecodedSamples
from janus_edge.export.graph.component import Component
from janus_edge.export.quantization.calibrate import sequences
from janus_edge.model.config import ImageHeadConfig, LanguageConfig
from janus_edge.model.janus import Janus
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime import manifest
from janus_edge.runtime.backends import cpu_library
from janus_edge.runtime.backends.cpu_decoder import CpuDecoder
from janus_edge.runtime.cached_decoder import CachedDecoder
from janus_edge.train.initial import initialise
from janus_edge.train.text import TEMPLATE, make_tokenizer
from tests.conftest import RANDOM

needs_library = pytest.mark.skipif(
    cpu_library.library() is None, reason="no C compiler was there, or no AVX-512 VNNI is"
)
LENGTH = 160  # of caches: two tiles of attention, and more
_language = partial(
    LanguageConfig, vocab_size=RANDOM.language.vocab_size, max_position_embeddings=LENGTH
)
SIZES = {
    "heads of 128": _language(
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    ),
    # no width is a multiple of a block or of a tile, and heads share keys
    "odd widths": _language(
        hidden_size=288,
        intermediate_size=172,
        num_hidden_layers=1,
        num_attention_heads=3,
        num_key_value_heads=1,
    ),
}


def checkpoint_of(name: str) -> Checkpoint:
    torch.manual_seed(1)
    wide = ImageHeadConfig(image_token_embed=640)  # more spec than there is room for scales
    model = Janus(dataclasses.replace(RANDOM, language=SIZES[name], gen_head=wide))
    initialise(model)
    return Checkpoint(
        model=model,
        tokenizer_json=make_tokenizer(RANDOM.language.vocab_size, 300).to_str(),
        prompt=dataclasses.asdict(TEMPLATE),
        sampling={"guidance_scale": 3.0, "temperature": 0.9},
    )


@dataclasses.dataclass(frozen=True)
class Made:
    """A decoder that was exported: what it was made from, and where it is."""

    checkpoint: Checkpoint
    component: Component
    entry: manifest.Component
    sizes: manifest.Sizes
    folder: Path

    def open(self, num_threads: int = 2) -> CpuDecoder:
        return CpuDecoder(self.folder, self.entry, self.sizes, cpu_library.Pool(num_threads))

    def decoder(self, rows: int, num_threads: int = 2) -> CachedDecoder:
        return CachedDecoder(self.open(num_threads), self.sizes, rows, LENGTH, "int8")

    def embeds(self, rows: int, time: int, start: int = 0) -> np.ndarray:
        """What keys and values were calibrated with."""
        known_RTD = sequences(self.checkpoint, DecodedSamples(self.checkpoint))[0].numpy()
        at = np.arange(rows)[:, None] * 5 + np.arange(start, start + time)
        return known_RTD[np.arange(rows)[:, None] % 2, at % known_RTD.shape[1]]
