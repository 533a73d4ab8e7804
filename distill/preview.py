"""Give a bundle a preview decoder, learned from images that the bundle draws itself.

Shapes: B images, N codes, K codebook size, P images, S pixels per side.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus_edge.distill.drawn_images import DrawnImages, Report, draw_images
from janus_edge.distill.network import OfCodes, OfLatents, as_linear, preview_decoder
from janus_edge.distill.prompts import default_prompts
from janus_edge.export.bundle.entries import graph_entry
from janus_edge.export.bundle.writer import write_manifest
from janus_edge.export.graph.builder import save_graph
from janus_edge.export.graph.component import Component
from janus_edge.export.graph.parity import measure_parity
from janus_edge.export.graph.traced import Input, traced
from janus_edge.runtime.arguments import in_range
from janus_edge.runtime.bundle import MANIFEST, Bundle, file_names, open_bundle
from janus_edge.runtime.errors import OptionError, OutputError
from janus_edge.runtime.files import link_or_copy
from janus_edge.runtime.manifest import PREVIEW_DECODER
from janus_edge.runtime.notes import home_folder
from janus_edge.runtime.place import check_place, replacing
from janus_edge.runtime.sizes import CodeSizes
from janus_edge.train.loop import LossAt, Stage, run_stage

BATCH, LEARNING_RATE, WARMUP_STEPS = 16, 2e-3, 100
HELD_OUT = 16  # one of so many images is not trained on, but measured
IMAGES = 2, 2**16  # at least one to learn from and one to measure
STEPS = 1, 10**6


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How near previews come to finished images that were not trained on, dB (PSNR).

    Attributes:
        linear_db: The linear map's, of whole images.
        whole_db: The preview decoder's, of whole images.
        half_db: The preview decoder's, in the drawn half of half-drawn images; JanusFlow's is
            ``whole_db``.
    """

    linear_db: float
    whole_db: float
    half_db: float

    def __str__(self) -> str:
        """Return the line that is reported."""
        return (
            f"preview decoder: {self.whole_db:.1f} dB of whole images, {self.half_db:.1f} dB of "
            f"drawn halves; the linear map {self.linear_db:.1f} dB"
        )


def distill_preview(
    model: str,
    *,
    prompts: list[str] | None,
    num_images: int,
    num_steps: int,
    output: Path | None,
    report: Report,
) -> Path:
    """Draw images, train a preview decoder and write the bundle with it.

    A run that was stopped goes on where it was, if it is started with the same words.

    Args:
        model: Folder or name of the bundle, whose components are graphs.
        prompts: What to draw; None: see ``default_prompts``.
        num_images: How many images are drawn.
        num_steps: Steps of training, each of BATCH images.
        output: Where the bundle is written; None replaces the bundle.
        report: Called with lines on the progress.

    Returns:
        The bundle's folder.

    Raises:
        OptionError: The bundle is of TensorRT engines, or a number is out of range.
        JanusEdgeError: The bundle cannot be opened, drawn with or written.
    """
    bundle = open_bundle(model)
    place = output or bundle.folder
    check_place(place, place == bundle.folder)
    if bundle.manifest.components["decoder"].backend != "onnxruntime":
        raise OptionError(f"{bundle.folder}: is of TensorRT engines; distill a bundle of graphs")
    in_range("images", num_images, *IMAGES)
    in_range("steps", num_steps, *STEPS)
    prompts = prompts or default_prompts(num_images)
    words = json.dumps([bundle.sha256, prompts, num_images, num_steps])
    folder = home_folder() / "distill" / hashlib.sha256(words.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        images = draw_images(bundle, prompts, num_images, folder, report)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{folder}: {reason}; make room there, or set JANUS_EDGE_HOME") from error
    learned, held = _split(images)
    network = _network(bundle)
    run_stage(network, _stage(num_steps), _loss(network, bundle, learned), folder)
    report(str(_quality(network, bundle, held)))
    _write(bundle, network, place, report)
    shutil.rmtree(folder)
    return place


def _stage(num_steps: int) -> Stage:
    return Stage(
        name="preview",
        num_steps=num_steps,
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        trainable=("",),
        warmup_steps=min(WARMUP_STEPS, num_steps // 2),
        decay_from=0.0,
    )


def _network(bundle: Bundle) -> OfCodes | OfLatents:
    """Return a preview decoder before training."""
    sizes, tables = bundle.manifest.sizes, bundle.tables
    embeds_KD = None
    if isinstance(sizes, CodeSizes):
        embeds_KD = torch.from_numpy(np.asarray(tables["code_embed"], np.float32))
    return preview_decoder(
        sizes, embeds_KD, torch.from_numpy(np.asarray(tables["preview"], np.float32))
    )


def _split(images: DrawnImages) -> tuple[DrawnImages, DrawnImages]:
    """Return images to learn from, and images to measure: the last ones."""
    count = len(images.drawn_P) - max(1, len(images.drawn_P) // HELD_OUT)
    drawn, pixels = images.drawn_P, images.pixels_PHWC
    return DrawnImages(drawn[:count], pixels[:count]), DrawnImages(drawn[count:], pixels[count:])


def _unfinished(codes_BN: Tensor, rows_B: Tensor, sizes: CodeSizes) -> Tensor:
    """Return codes of which so many rows are drawn; K stands for the others."""
    places_N = torch.arange(codes_BN.shape[1]) // sizes.code_grid
    return torch.where(places_N < rows_B[:, None], codes_BN, sizes.codebook_size)


def _loss(network: nn.Module, bundle: Bundle, images: DrawnImages) -> LossAt:
    """Return the loss of a step: mean absolute error of pixels, and of their slopes."""
    sizes, count = bundle.manifest.sizes, len(images.drawn_P)

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng(step)
        chosen_B = rng.integers(0, count, BATCH)
        given = torch.from_numpy(images.drawn_P[chosen_B])
        if isinstance(sizes, CodeSizes):
            rows_B = torch.from_numpy(rng.integers(1, sizes.code_grid + 1, BATCH))
            given = _unfinished(given, rows_B, sizes)
        error = network(given) - _signed(images.pixels_PHWC[chosen_B])
        slopes = [error.diff(dim=dim).abs().mean() for dim in (2, 3)]
        return error.abs().mean() + sum(slopes), {}

    return loss_at


def _signed(pixels_PHWC: np.ndarray) -> Tensor:
    """Return pixels (P, 3, S, S) in [-1, 1]."""
    return torch.from_numpy(pixels_PHWC).movedim(-1, 1).float() / 127.5 - 1


@torch.no_grad()
def _quality(network: nn.Module, bundle: Bundle, held: DrawnImages) -> Quality:
    """Measure on images that were not trained on."""
    sizes, wanted, given = bundle.manifest.sizes, _signed(held.pixels_PHWC), held.drawn_P

    def decibels(of: nn.Module, given: Tensor, rows: int) -> float:
        made = torch.cat([of(each[None]) for each in given]).clamp(-1, 1)
        error = F.mse_loss(made[:, :, :rows], wanted[:, :, :rows]).item()
        return float(10 * np.log10(4 / max(error, 1e-10)))

    finished, side = torch.from_numpy(given), sizes.image_size
    whole = half = decibels(network, finished, side)
    if isinstance(sizes, CodeSizes):
        rows = max(1, sizes.code_grid // 2)
        drawn = _unfinished(finished, torch.full((len(given),), rows), sizes)
        half = decibels(network, drawn, rows * (side // sizes.code_grid))
    linear = decibels(as_linear(_network(bundle)), finished, side)
    return Quality(linear_db=linear, whole_db=whole, half_db=half)


def component_of(network: OfCodes | OfLatents, bundle: Bundle) -> Component:
    """Return the component that a trained network becomes."""
    sizes = bundle.manifest.sizes
    if isinstance(sizes, CodeSizes):
        given = Input(name="codes", shape=(sizes.num_codes,), below=sizes.codebook_size + 1)
    else:
        given = Input(name="latent", shape=sizes.latent_shape)
    network.eval()
    return traced(PREVIEW_DECODER, (), network, network, (given,), ("pixels",))


def _write(bundle: Bundle, network: OfCodes | OfLatents, folder: Path, report: Report) -> None:
    """Write the bundle with the preview decoder: whole, or not at all."""
    component = component_of(network, bundle)
    with replacing(folder, replace=folder == bundle.folder) as part:
        raw = (bundle.folder / MANIFEST).read_bytes()
        if hashlib.sha256(raw).hexdigest() != bundle.sha256:
            raise OutputError(f"{bundle.folder}: was replaced meanwhile; start again")
        for name in file_names(bundle.manifest):
            if name != f"{PREVIEW_DECODER}.onnx":
                link_or_copy(bundle.folder / name, part / name)
        path = part / f"{PREVIEW_DECODER}.onnx"
        proto = component.build(None)
        save_graph(proto, path)
        entry = graph_entry(component, proto, path, None, "float32")
        examples = component.examples()
        parity = measure_parity(component, path, "load", examples, component.references(examples))
        manifest = json.loads(raw)
        manifest["name"] = folder.name
        manifest["components"][PREVIEW_DECODER] = entry
        write_manifest(manifest, part)
        report(f"{PREVIEW_DECODER}: {path.stat().st_size / 1e6:.2f} MB, {parity}")
