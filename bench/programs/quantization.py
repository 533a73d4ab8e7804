r"""Effect of quantized weights on a Janus: divergence of the guided logits, and the codes drawn.

    python bench/programs/quantization.py EXACT BUNDLE... \
        --record bench/records/quantization.jsonl [--prompts 60] [--split validation] [--threads 1]

EXACT is the bundle exported with ``--quantize fp32``; the others are of the same checkpoint. EXACT
draws an image per prompt. For each position, after the codes before it, every bundle then gives its
guided logits. The record has KL(exact || quantized) of these logits at the drawing's guidance and
temperature, in nats, over the first row of codes and over the rest, and how often the same noise
picks the same code. A line per bundle is appended. ``janus-edge eval shapes`` scores whole images
and answers.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from janus_edge.diagnostics.records import append_record, program
from janus_edge.evals.scoring import check_split, draw
from janus_edge.evals.shapes import prompts
from janus_edge.runtime import sampling
from janus_edge.runtime.bundle import Bundle, open_bundle
from janus_edge.runtime.decode import Settings
from janus_edge.runtime.draw_codes import sizes_of
from janus_edge.runtime.engines import Engines
from janus_edge.runtime.errors import JanusEdgeError, OptionError
from janus_edge.runtime.manifest import JanusManifest
from janus_edge.runtime.output import check_writable
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session

SCHEMA = "quantization/1"


def guided_logits(
    engines: Engines, prompt: str, codes_N: np.ndarray, guidance_scale: float
) -> np.ndarray:
    """Return the guided logits (N, V) of each position of an image, after its codes before that.

    Args:
        engines: Engines of the bundle.
        prompt: The prompt.
        codes_N: The image's codes.
        guidance_scale: Guidance scale.
    """
    encoder, sizes = engines.bundle.encoder, sizes_of(engines)
    ids_T = encoder.generation(prompt)
    ids_2T = np.stack([ids_T, encoder.unconditional(ids_T)])
    decoder = engines.open_decoder(2, len(ids_T) + sizes.num_codes)
    embeds = engines.table("text_embed")[ids_2T].astype(np.float32)
    hidden_2D = decoder.prefill(embeds, np.full(2, len(ids_T)))
    logits = []
    for position, code in enumerate(codes_N):
        (rows_2V,) = engines["image_head"].run({"hidden": hidden_2D})
        logits.append(sampling.guide(rows_2V[0], rows_2V[1], guidance_scale))
        if position + 1 < len(codes_N):
            hidden_2D = decoder.step(engines.table("code_embed")[[code, code]])
    return np.stack(logits)


def divergence(exact_NV: np.ndarray, rounded_NV: np.ndarray, temperature: float) -> np.ndarray:
    """Return KL(exact || rounded) of each position (N,), in nats."""
    p, q = (_log_probs(x.astype(np.float64) / temperature) for x in (exact_NV, rounded_NV))
    return (np.exp(p) * (p - q)).sum(-1)


def _log_probs(logits_NV: np.ndarray) -> np.ndarray:
    """Return log-probabilities."""
    shifted = logits_NV - logits_NV.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _check_alike(bundles: list[Bundle]) -> None:
    """Refuse bundles that draw no codes or are of different models; raise OptionError."""
    for bundle in bundles:
        if not isinstance(bundle.manifest, JanusManifest):
            raise OptionError(f"{bundle.manifest.name} draws no codes; give bundles of a Janus")
        if bundle.manifest.sizes != bundles[0].manifest.sizes:
            raise OptionError(
                f"{bundle.manifest.name} has other sizes than {bundles[0].manifest.name}; give "
                "bundles of one checkpoint"
            )


def compare(
    bundles: list[Bundle], split: str, num_prompts: int, num_threads: int
) -> list[dict[str, Any]]:
    """Return the measures of all bundles but the first, compared with the first.

    Args:
        bundles: The exact bundle, then quantized ones of the same checkpoint.
        split: Split of the prompts.
        num_prompts: Number of prompts.
        num_threads: Threads of the backend.

    Raises:
        OptionError: A bundle draws no codes, or is of another model.
    """
    _check_alike(bundles)
    session = Session(bundles[0], num_threads=num_threads)
    exact, *rounded = (Engines(bundle, num_threads) for bundle in bundles)
    settings = session.image_settings(ImageRequest(prompt=""))
    assert isinstance(settings, Settings)
    grid = sizes_of(exact).code_grid
    diverged: list[list[np.ndarray]] = [[] for _ in rounded]
    same: list[list[np.ndarray]] = [[] for _ in rounded]
    for seed, (_, wanted) in enumerate(prompts(split, num_prompts)):
        codes_N = draw(session, ImageRequest(prompt=wanted.text, seed=seed)).codes
        assert codes_N is not None
        scale, temperature = settings.guidance_scale, settings.temperature
        exact_NV = guided_logits(exact, wanted.text, codes_N, scale)
        noise = sampling.gumbel(
            np.array([seed], np.uint64),
            np.arange(len(codes_N)),
            exact_NV.shape[1],
            sampling.STREAMS["image"],
        )
        for engines, kl, agreed in zip(rounded, diverged, same, strict=True):
            logits_NV = guided_logits(engines, wanted.text, codes_N, scale)
            kl.append(divergence(exact_NV, logits_NV, temperature))
            agreed.append((logits_NV / temperature + noise[0]).argmax(-1) == codes_N)
    return [
        {
            "guidance_scale": settings.guidance_scale,
            "temperature": settings.temperature,
            "kl_first_row": float(f"{np.mean([x[:grid] for x in kl]):.3g}"),
            "kl_rest": float(f"{np.mean([x[grid:] for x in kl]):.3g}"),
            "kl_largest": float(f"{np.max(kl):.3g}"),
            "same_codes": round(float(np.mean(agreed)), 4),
        }
        for kl, agreed in zip(diverged, same, strict=True)
    ]


def main() -> None:
    """Parse the command line, measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exact", help="a bundle's folder, or a name that `models` lists")
    parser.add_argument("bundles", nargs="+", help="of the same checkpoint, rounded")
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.prompts < 1:
        parser.error("--prompts: give at least 1")
    try:
        check_split(options.split)
        check_writable(options.record)
        bundles = [open_bundle(name) for name in (options.exact, *options.bundles)]
        found = compare(bundles, options.split, options.prompts, options.threads)
    except JanusEdgeError as error:
        parser.error(str(error))
    for bundle, measures in zip(bundles[1:], found, strict=True):
        manifest = bundle.manifest
        append_record(
            options.record,
            {
                **program(SCHEMA),
                "machine": f"{platform.machine()} {platform.system()}",
                "onnxruntime": onnxruntime.__version__,
                "bundle": manifest.name,
                "bundle_sha256": bundle.sha256,
                "exact_sha256": bundles[0].sha256,
                "weights": {
                    name: f"{part.weights}, {part.quantization}"
                    for name, part in manifest.components.items()
                    if part.quantization != "none"
                },
                "split": options.split,
                "prompts": options.prompts,
                **measures,
            },
        )
        print(f"{manifest.name}: {measures}")


if __name__ == "__main__":
    main()
