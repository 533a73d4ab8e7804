"""A fake GPU with sessions on it: bundles whose engines are graphs, kernels their references."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from janus_edge.export.bundle import writer as bundles
from janus_edge.export.bundle.gpu_kernels import kernels_of
from janus_edge.export.bundle.writer import export_bundle
from janus_edge.export.tensorrt import engines as engines
from janus_edge.export.tensorrt.engines import Plan
from janus_edge.kernels.compile import constants_of
from janus_edge.kernels.tuning import tuned
from janus_edge.model.config import ImageHeadConfig, LanguageConfig
from janus_edge.model.janus import Janus
from janus_edge.model.janusflow import JanusFlow
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime import cuda as cudas
from janus_edge.runtime.backends import tensorrt
from janus_edge.runtime.bundle import Bundle, file_sha256, open_bundle
from janus_edge.runtime.events import Image
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session
from janus_edge.train.initial import initialise
from janus_edge.train.text import TEMPLATE, make_tokenizer
from tests.conftest import RANDOM, RANDOM_FLOW, RANDOM_VAE
from tests.runtime.fake_cuda import FakeDriver
from tests.runtime.fake_tensorrt import FakeTensorRT

PROMPTS = ImageRequest(prompt=("a star", "three small red circles on white"), seed=5)


def _graph_for_engine(trt: Any, source: Path, proto: Any, uses: Any, plan: Any) -> bytes:
    return bytes(proto.SerializeToString())


def _fake_kernels(
    checkpoint: Checkpoint, part: Path, targets: Any, report: Any, *, decoder: bool
) -> list[Any]:
    """Entries as they are compiled, without code: tests/kernels compiles it."""
    made = []
    for spec in kernels_of(checkpoint.model, decoder=decoder):
        for target in (80, 89, 120):
            spec = tuned(spec, target)
            path = part / f"{spec.name}.sm_{target}.cubin"
            path.write_bytes(b"\x7fELF" + bytes(14) + b"\xbe\0" + spec.name.encode())  # of CUDA
            made.append(
                {
                    "name": spec.name,
                    "target": f"sm_{target}",
                    "file": path.name,
                    "sha256": file_sha256(path),
                    "symbol": f"{spec.name}_kernel",
                    "threads": 32 * spec.num_warps,
                    "shared_bytes": 64 * 1024 if target == 120 else 1024,
                    "arguments": [*spec.arguments.values(), "*scratch", "*scratch"],
                    "constants": constants_of(spec, target),
                }
            )
    return made


def small_checkpoint() -> Checkpoint:
    """Heads that share keys, and an MLP whose size is no multiple of a block."""
    language = LanguageConfig(
        vocab_size=RANDOM.language.vocab_size,
        max_position_embeddings=192,
        hidden_size=256,
        intermediate_size=320,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(2)
    small = ImageHeadConfig(image_token_embed=128)
    made = Janus(dataclasses.replace(RANDOM, language=language, gen_head=small))
    initialise(made)
    return Checkpoint(
        model=made,
        tokenizer_json=make_tokenizer(RANDOM.language.vocab_size, 300).to_str(),
        prompt=dataclasses.asdict(TEMPLATE),
        sampling={"guidance_scale": 3.0, "temperature": 0.9},
    )


def small_flow_checkpoint() -> Checkpoint:
    """A step has 65 positions, so that it takes the kernels for many rows."""
    language = dataclasses.replace(small_checkpoint().model.config.language, num_hidden_layers=1)
    vision = dataclasses.replace(RANDOM_FLOW.vision, image_size=64)
    torch.manual_seed(3)
    config = dataclasses.replace(RANDOM_FLOW, language=language, vision=vision)
    made = JanusFlow(config, RANDOM_VAE)
    for parameter in made.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return Checkpoint(
        model=made,
        tokenizer_json=make_tokenizer(RANDOM.language.vocab_size, 300).to_str(),
        prompt=dataclasses.asdict(TEMPLATE),
        sampling={"guidance_scale": 2.0, "num_steps": 5, "solver": "euler"},
    )


def export_graphs(checkpoint: Checkpoint, folder: Path) -> Bundle:
    """A bundle whose engines are graphs, in float32 but for attention and caches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "build_engine", _graph_for_engine)
        patch.setattr(engines, "EVERYTHING", frozenset({"TensorScatter", "Attention"}))
        patch.setattr(bundles, "write_kernels", _fake_kernels)
        patch.setattr(bundles, "check_compiles", lambda: None)  # nor need they
        export_bundle(checkpoint, folder, max_length=96, engines=Plan(), report=lambda line: None)
    return open_bundle(folder)


def export_with_kernels(checkpoint: Checkpoint, folder: Path) -> Bundle:
    """A bundle in 4 bits with what our kernels need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundles, "write_kernels", _fake_kernels)
        patch.setattr(bundles, "check_compiles", lambda: None)  # nor need they
        export_bundle(
            checkpoint,
            folder,
            max_length=160,
            quantize="int4",
            kernels=(80, 89, 120),
            report=lambda line: None,
        )
    return open_bundle(folder)


class Machine:
    """A fake GPU, and sessions on it."""

    def __init__(self, patch: pytest.MonkeyPatch, bundle: Bundle, **options: int) -> None:
        self.bundle, self.driver = bundle, FakeDriver(**options)
        sizes = bundle.manifest.sizes
        self.driver.width = sizes.hidden_size
        self.driver.codebook_size = getattr(sizes, "codebook_size", 0)
        self.driver.latent_size = math.prod(getattr(sizes, "latent_shape", ()))
        self.driver.constants = {each.name: each.constants for each in bundle.manifest.kernels}
        patch.setattr(cudas, "import_driver", lambda: self.driver)
        builder = bundle.manifest.components["decoder"].builder
        if builder is None:
            return
        profiles = {
            " ".join(given.name for given in part.inputs[:2]): part.profiles
            for part in bundle.manifest.components.values()
            if part.profiles
        }
        self.trt = FakeTensorRT(self.driver, builder.version, profiles)
        patch.setattr(tensorrt, "import_library", lambda name: self.trt)
        patch.setattr(
            "janus_edge.runtime.backends.tensorrt_library.import_library", lambda name: self.trt
        )

    def session(self) -> Session:
        """On this GPU."""
        return Session(self.bundle, device="cuda")


def drawn(session: Session, request: ImageRequest) -> list[Any]:
    return list(session.generate_image(request))


def results(events: list[Any]) -> np.ndarray:
    images = [event for event in events if isinstance(event, Image)]
    return np.stack([image.codes if image.latent is None else image.latent for image in images])
