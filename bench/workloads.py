"""The workloads that are timed of a bundle: draw and ask.

What is asked follows from the bundle's family and sizes alone: the prompt, image and seed are the
same for every bundle of a family.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw

from janus_edge.bench.operations import component_operations, prompt_operations
from janus_edge.bench.process import Run, Workloads
from janus_edge.runtime.backends import cpu_library
from janus_edge.runtime.bundle import Bundle, open_bundle
from janus_edge.runtime.cuda import Cuda
from janus_edge.runtime.devices import Device
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.events import Finished
from janus_edge.runtime.manifest import Stored
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session
from janus_edge.runtime.tiles import LAYOUTS

Workload = Literal["draw", "ask"]
WORKLOADS: tuple[Workload, ...] = ("draw", "ask")
QUESTION = "describe the picture."
_WORDS = ("a red circle", " and a blue star", " above a green square", " near a large cross")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a bundle and its requests.

    Attributes:
        num_threads: Threads of the backend; 0 lets it choose.
        device: Device to run on.
        batch: Images per request, of one prompt.
        prompt_length: Shortest prompt in tokens; 0 for a short one.
        max_tokens: Longest answer in tokens.
        num_steps: Steps per image of a JanusFlow; None for the bundle's.
        reference: Whether to draw with the papers' settings.
        parallel: Positions that a pass of a Janus computes; None for what draws fastest.
    """

    num_threads: int = 0
    device: str = "auto"
    batch: int = 1
    prompt_length: int = 0
    max_tokens: int = 32
    num_steps: int | None = None
    reference: bool = False
    parallel: int | None = None


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A bundle as its process found it.

    Attributes:
        folder: Folder of the bundle.
        name: Name of the bundle.
        family: Family of the model.
        sha256: Hash of the manifest.
        weights: How the decoder's weights are stored.
        device: Device that it runs on, with a GPU's name.
        backend: What runs the decoder.
        uses_cpu_kernels: Whether the CPU kernels run the decoder.
        open_ms: Time to open it: manifest, hashes and tokenizer.
        prompt_tokens: Length of the prompt.
        question_tokens: Length of the question, with its image.
        instructions: The instruction set of the CPU kernels; None where they do not run.
        operations: Operations of the parts of each workload that wait for arithmetic, by component;
            "prompt" is the prefill of a question.
        codes: Codes of an image; None for a flow.
        images_at_once: Images that a pass draws, the mean of all batches.
        step_bytes: Bytes of weights, keys and values that the middle step of each workload reads;
            None where a step does not wait for memory, or for another memory than the processor's.
    """

    folder: str
    name: str
    family: str
    sha256: str
    weights: str
    device: str
    backend: str
    uses_cpu_kernels: bool
    instructions: str | None
    operations: dict[Workload, dict[str, float]]
    open_ms: float
    prompt_tokens: int
    question_tokens: int
    codes: int | None
    images_at_once: float
    step_bytes: dict[Workload, int | None]


def open_workloads(model: str | None, settings: Settings) -> tuple[Opened, Workloads]:
    """Open a bundle; return what it is, and its workloads by name.

    Args:
        model: Folder or name of the bundle; None for the default.
        settings: Settings of the bundle and its requests.

    Raises:
        BundleError: The bundle cannot be opened.
        DeviceError: The device cannot run it.
    """
    began = time.perf_counter()
    bundle = open_bundle(model)
    open_ms = (time.perf_counter() - began) * 1e3
    # Each run computes its prompt: a session that keeps contexts would measure the first alone.
    session = Session(
        bundle, num_threads=settings.num_threads, device=settings.device, context_mb=0
    )
    requests = _requests(bundle, settings)
    workloads: Workloads = {
        workload: partial(_run, session, request) for workload, request in requests.items()
    }
    return _opened(bundle, session, settings, open_ms), workloads


def _requests(bundle: Bundle, settings: Settings) -> dict[Workload, ImageRequest | AskRequest]:
    """Return the request of each workload."""
    drawing = ImageRequest(
        prompt=_prompt(bundle, settings.prompt_length),
        num_images=settings.batch,
        num_steps=settings.num_steps,
        reference=settings.reference,
        parallel=settings.parallel,
    )
    asking = AskRequest(
        question=QUESTION,
        images=(_image(bundle.manifest.sizes.image_size),),
        max_tokens=settings.max_tokens,
    )
    return {"draw": drawing, "ask": asking}


def _run(session: Session, request: ImageRequest | AskRequest) -> Run:
    """Run a request and return its times."""
    before = session.component_ms
    is_drawing = isinstance(request, ImageRequest)
    ask: Callable[[Any], Any] = session.generate_image if is_drawing else session.ask
    (finished,) = (event for event in ask(request) if isinstance(event, Finished))
    if not finished.step_ends_ms:
        name = session.bundle.manifest.name
        raise OptionError(f"{name}: answers with nothing, so no step can be timed; leave ask out")
    spent = session.component_ms
    return Run(
        total_ms=finished.timings_ms["total"],
        step_ends_ms=finished.step_ends_ms,
        passes=finished.passes,
        component_ms={
            name: ms - before.get(name, 0.0)
            for name, ms in spent.items()
            if ms > before.get(name, 0.0)
        },
    )


def _opened(bundle: Bundle, session: Session, settings: Settings, open_ms: float) -> Opened:
    """Return what an open bundle is."""
    manifest = bundle.manifest
    decoder = manifest.components["decoder"]
    prompt = bundle.encoder.generation(_prompt(bundle, settings.prompt_length))
    return Opened(
        folder=str(bundle.folder),
        name=manifest.name,
        family=manifest.family,
        sha256=bundle.sha256,
        weights=" in ".join(
            word for word in (decoder.weights, decoder.quantization) if word != "none"
        ),
        device=_device(session.device),
        backend="cuda_kernels" if session.uses_cuda_kernels else decoder.backend,
        uses_cpu_kernels=session.uses_cpu_kernels,
        instructions=cpu_library.instructions() if session.uses_cpu_kernels else None,
        operations=_operations(bundle, settings)
        if session.device.kind == "cpu"
        else {workload: {} for workload in WORKLOADS},
        open_ms=open_ms,
        prompt_tokens=len(prompt),
        question_tokens=len(bundle.encoder.question(QUESTION, manifest.sizes.num_image_tokens)),
        codes=getattr(manifest.sizes, "num_codes", None),
        images_at_once=settings.batch / -(-settings.batch // _most_at_once(bundle)),
        step_bytes=_step_bytes(bundle, settings, len(prompt))
        if session.device.kind == "cpu"
        else dict.fromkeys(WORKLOADS),
    )


def _rows_an_image(bundle: Bundle) -> int:
    return 1 if bundle.manifest.sampling.guidance_scale == 1 else 2


def _most_at_once(bundle: Bundle) -> int:
    """Return how many images the decoder draws in one batch."""
    most_rows = bundle.manifest.components["decoder"].profile["R"][2]
    return max(1, most_rows // _rows_an_image(bundle))


def _device(device: Device) -> str:
    """Return the device with its GPU's name."""
    if device.kind != "cuda":
        return str(device)
    return f"{device}, {Cuda(device.ordinal).name}"


def _step_bytes(bundle: Bundle, settings: Settings, prompt: int) -> dict[Workload, int | None]:
    """Return the bytes that the middle step of each workload reads.

    A flow's step computes all positions of an image at once: it waits for arithmetic, not for
    memory.
    """
    manifest, sizes = bundle.manifest, bundle.manifest.sizes
    asked = len(bundle.encoder.question(QUESTION, sizes.num_image_tokens))
    found: dict[Workload, int | None] = {
        "draw": None,
        "ask": _weights(bundle, "decoder", "text_head")
        + _cache(bundle, 1, asked + settings.max_tokens // 2),
    }
    if manifest.family == "janus":
        rows = min(settings.batch, _most_at_once(bundle)) * _rows_an_image(bundle)
        middle = prompt + manifest.sizes.num_codes // 2
        found["draw"] = _weights(bundle, "decoder", "image_head") + _cache(bundle, rows, middle)
    return found


def _operations(bundle: Bundle, settings: Settings) -> dict[Workload, dict[str, float]]:
    """Return the operations of what waits for arithmetic in a run of each workload."""
    manifest = bundle.manifest
    parts = component_operations(manifest)
    seen = {name: parts[name] for name in ("vision_encoder", "vision_aligner") if name in parts}
    asked = len(bundle.encoder.question(QUESTION, manifest.sizes.num_image_tokens))
    prompt = prompt_operations(manifest, asked)
    drawn = (
        {"image_decoder": settings.batch * parts["image_decoder"]}
        if "image_decoder" in parts
        else {}
    )
    return {"draw": drawn, "ask": seen | ({} if prompt is None else {"prompt": prompt})}


def _weights(bundle: Bundle, *names: str) -> int:
    """Return the bytes of components in memory.

    These are the weights that the manifest lists, or else the whole files. fp16 weights are widened
    as a file is opened unless the manifest says otherwise.
    """
    total = 0
    for name in names:
        part = bundle.manifest.components[name]
        listed = (each for key, each in part.tensors.items() if key not in ("cos", "sin"))
        size = sum(map(_stored_bytes, listed)) or bundle.num_bytes(name)
        total += size * 2 if (part.weights, part.upcast) == ("float16", "load") else size
    return total


def _stored_bytes(stored: Stored) -> int:
    """Return the bytes of a stored tensor."""
    if stored.dtype in LAYOUTS:
        return LAYOUTS[stored.dtype].size(*stored.shape)
    return math.prod(stored.shape) * np.dtype(stored.dtype).itemsize


def _cache(bundle: Bundle, rows: int, length: int) -> int:
    """Return the bytes of the keys and values of so many positions."""
    sizes = bundle.manifest.sizes
    numbers = 2 * sizes.num_layers * sizes.num_kv_heads * sizes.head_dim
    return rows * length * numbers * np.dtype(bundle.manifest.cache_type).itemsize


def _prompt(bundle: Bundle, length: int) -> str:
    """Return a prompt of at least so many tokens, by the bundle's tokenizer."""
    text, index = _WORDS[0], 1
    while len(bundle.encoder.generation(text)) < length:
        text += _WORDS[1 + index % (len(_WORDS) - 1)]
        index += 1
    return text


def _image(side: int) -> PilImage.Image:
    """Return a red circle on white."""
    image = PilImage.new("RGB", (side, side), "white")
    box = [side // 4, side // 4, side // 2, side // 2]
    ImageDraw.Draw(image).ellipse(box, fill="red")
    return image
