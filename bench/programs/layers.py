"""Time of two decoder layers of Janus-Pro-1B's shape in each storage, side by side in one run.

    python bench/programs/layers.py --record bench/records/layers.jsonl [--threads 2] [--repeats 15]

The weights are random; graphs and decoder are the product's own. Timed are a step of two rows near
the start and near the end of an image, the prompt of a question about an image, a short prompt of
two rows, and the tokens of one velocity after a short prompt. Each round runs all kinds in turn.
The median of the rounds, in ms per layer, is printed and appended as a line of the record.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime
import torch

from janus_edge.diagnostics.machine import describe
from janus_edge.diagnostics.records import append_record, program
from janus_edge.export.bundle.sizes import sizes_of
from janus_edge.export.graph.builder import save_graph
from janus_edge.export.graph.decoder_graph import decoder_graph
from janus_edge.export.graph.lowering import LOWERINGS
from janus_edge.export.quantization.calibrate import CacheScales
from janus_edge.export.quantization.quantize import QuantSpec
from janus_edge.model.config import JanusConfig, LanguageConfig
from janus_edge.model.janus import Janus
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime.backends import Engine
from janus_edge.runtime.backends.onnxruntime import load_graph
from janus_edge.runtime.cached_decoder import CachedDecoder
from janus_edge.runtime.sizes import Sizes
from janus_edge.train.recipe import load_recipe

SCHEMA = "layers/1"
TINY = cast(JanusConfig, load_recipe("tiny-janus").config)

LAYERS = 2
LENGTH = 640
LANGUAGE = LanguageConfig(
    vocab_size=TINY.language.vocab_size,
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=LAYERS,
    num_attention_heads=16,
    num_key_value_heads=16,
    max_position_embeddings=LENGTH,
)
# Weights and KV cache.
KINDS = {
    "fp32, fp32 cache": (None, "float32"),
    "int4 in blocks of 64, fp32 cache": (QuantSpec(bits=4, block_size=64), "float32"),
    "int4 in blocks of 64, int8 cache": (QuantSpec(bits=4, block_size=64), "int8"),
    "int4 in blocks of 128, fp32 cache": (QuantSpec(bits=4, block_size=128), "float32"),
    "int4 in blocks of 128, int8 cache": (QuantSpec(bits=4, block_size=128), "int8"),
    "int8 in blocks of 128, fp32 cache": (QuantSpec(bits=8, block_size=128), "float32"),
    "int8 outputs, fp32 cache": (QuantSpec(bits=8), "float32"),
    "int8 outputs, int8 cache": (QuantSpec(bits=8), "int8"),
}


def decoders(folder: Path, num_threads: int) -> dict[str, Callable[[int], CachedDecoder]]:
    """Return, by kind, a function that makes a decoder for so many rows."""
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, language=LANGUAGE)
    checkpoint = Checkpoint(model=Janus(config), tokenizer_json="", prompt=None, sampling={})
    level = torch.full((LANGUAGE.num_key_value_heads, 1, LANGUAGE.head_dim), 0.02)
    scales = [CacheScales(keys_G1E=level, values_G1E=level)] * LAYERS
    sizes = sizes_of(checkpoint.model, LENGTH)
    found: dict[str, Callable[[int], CachedDecoder]] = {}
    for name, (spec, cache) in KINDS.items():
        path = folder / f"{len(found)}.onnx"
        own = scales if cache == "int8" else None
        save_graph(
            decoder_graph(checkpoint, LENGTH, LOWERINGS["onnxruntime"], None, spec, own), path
        )
        engine = load_graph(path, num_threads)
        found[name] = partial(_decoder, engine, sizes, cache)
    return found


def _decoder(engine: Engine, sizes: Sizes, cache: str, rows: int) -> CachedDecoder:
    """Return a decoder with its caches."""
    return CachedDecoder(engine, sizes, rows, LENGTH, cache)


def _prefill(decoder: CachedDecoder, words: np.ndarray, lengths: np.ndarray) -> None:
    decoder.clear()
    decoder.prefill(words, lengths)


def workloads(make: Callable[[int], CachedDecoder]) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    rng, width = np.random.default_rng(0), LANGUAGE.hidden_size
    found: dict[str, Callable[[], object]] = {}

    def prompt(rows: int, time: int) -> np.ndarray:
        return rng.standard_normal((rows, time, width), np.float32)

    for past in (50, 600):
        decoder = make(2)
        decoder.prefill(prompt(2, past), np.full(2, past))
        found[f"step of 2 rows after {past}"] = partial(decoder.step, prompt(2, 1)[:, 0])
    for rows, length in ((2, 20), (1, 600)):
        words, lengths = prompt(rows, length), np.full(rows, length)
        found[f"prompt of {length}, {rows} rows"] = partial(_prefill, make(rows), words, lengths)
    decoder, tokens, positions = make(1), prompt(1, 577), np.arange(20, 597)[None]
    decoder.prefill(prompt(1, 20), np.array([20]))
    found["velocity of 577 after 20"] = partial(decoder.look_ahead, tokens, positions)
    return found


def main() -> None:
    """Parse the command line, measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    before = describe()
    with tempfile.TemporaryDirectory() as folder:
        kinds = {
            name: workloads(made) for name, made in decoders(Path(folder), options.threads).items()
        }
        spent: dict[str, dict[str, list[float]]] = {
            n: {w: [] for w in ws} for n, ws in kinds.items()
        }
        for workload in next(iter(kinds.values())):
            for turn in range(options.repeats + 2):  # two to warm up
                for name, calls in kinds.items():
                    began = time.perf_counter()
                    calls[workload]()
                    if turn > 1:
                        spent[name][workload].append((time.perf_counter() - began) * 1e3 / LAYERS)
    medians = {
        name: {workload: round(float(np.median(ms)), 3) for workload, ms in workloads.items()}
        for name, workloads in spent.items()
    }
    for name, row in medians.items():
        print(f"{name:36}", *(f"{workload} {ms:8.3f}" for workload, ms in row.items()), sep="  ")
    append_record(
        options.record,
        {
            **program(SCHEMA),
            **before,
            "onnxruntime": onnxruntime.__version__,
            "threads": options.threads,
            "ms_a_layer": medians,
        },
    )


if __name__ == "__main__":
    main()
