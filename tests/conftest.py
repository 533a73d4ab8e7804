"""A tiny random Janus, exported once a test session; commands run in a process of their own."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from tests.shared import made_once

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what tests start is to heed it
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read where a kernel is defined
    from triton.runtime import interpreter

    _patch = interpreter._patch_lang_tensor

    def _with_ends_of_ranges(tensor: Any, scope: Any) -> None:
        """NumPy from 2.4 on makes no number of an array of one, which Triton 3.6 asks for."""
        _patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = _with_ends_of_ranges
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several: they would wait for each other's threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

from janus_edge.export.bundle.writer import export_bundle
from janus_edge.model.config import (
    CodebookConfig,
    FlowConfig,
    ImageHeadConfig,
    JanusConfig,
    JanusFlowConfig,
    LanguageConfig,
    VisionConfig,
)
from janus_edge.model.janus import Janus
from janus_edge.model.janusflow import JanusFlow
from janus_edge.model.vae import VAEConfig
from janus_edge.model.weights import Checkpoint, load_checkpoint, save_checkpoint
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.session import Session
from janus_edge.train.initial import initialise
from janus_edge.train.text import TEMPLATE, make_tokenizer

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"

RANDOM = JanusConfig(
    language=LanguageConfig(
        vocab_size=456,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=96,
    ),
    vision=VisionConfig(image_size=32, patch_size=8, width=24, layers=2, heads=2),
    codebook=CodebookConfig(
        size=40,
        dim=8,
        z_channels=16,
        channels=8,
        encoder_ch_mult=(1, 1, 2, 2),
        decoder_ch_mult=(1, 1, 2, 2),
        num_res_blocks=1,
        num_groups=4,
    ),
    gen_head=ImageHeadConfig(image_token_embed=32),
)

RANDOM_FLOW = JanusFlowConfig(
    language=RANDOM.language, vision=RANDOM.vision, flow=FlowConfig(channels=16)
)
RANDOM_VAE = VAEConfig(
    latent_channels=4,
    block_out_channels=(8, 16, 16),
    layers_per_block=1,
    norm_num_groups=4,
    scaling_factor=1.3,
)


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What opening a bundle remembers stays out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JANUS_EDGE_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _command_line_made_once() -> Iterator[None]:
    """Typer makes all commands anew for each call in a process, which takes longer than most do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session")
def checkpoint_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint whose guided logits are neither flat nor extreme."""
    torch.manual_seed(1)
    model = Janus(RANDOM)
    initialise(model)
    folder = tmp_path_factory.mktemp("checkpoint") / "random"
    checkpoint = Checkpoint(
        model=model,
        tokenizer_json=make_tokenizer(RANDOM.language.vocab_size, 300).to_str(),
        prompt=dataclasses.asdict(TEMPLATE),
        sampling={"guidance_scale": 3.0, "temperature": 0.9},
    )
    save_checkpoint(checkpoint, folder, torch.float16)
    return folder


@pytest.fixture(scope="session")
def checkpoint(checkpoint_dir: Path) -> Checkpoint:
    """The same, read back."""
    return load_checkpoint(checkpoint_dir)


@pytest.fixture(scope="session")
def bundle_dir(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random checkpoint's bundle. Do not change it: copy it."""

    def make(folder: Path) -> None:
        export_bundle(checkpoint, folder, max_length=96, report=lambda line: None)

    return made_once(tmp_path_factory, "random", make)


@pytest.fixture(scope="session")
def session(bundle_dir: Path) -> Session:
    """An open session on the random bundle."""
    return Session(open_bundle(bundle_dir), num_threads=1)


@pytest.fixture(scope="session")
def flow_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random JanusFlow checkpoint, its autoencoder in ``vae``."""
    torch.manual_seed(1)
    model = JanusFlow(RANDOM_FLOW, RANDOM_VAE)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    folder = tmp_path_factory.mktemp("checkpoint") / "random-flow"
    checkpoint = Checkpoint(
        model=model,
        tokenizer_json=make_tokenizer(RANDOM.language.vocab_size, 300).to_str(),
        prompt=dataclasses.asdict(TEMPLATE),
        sampling={"guidance_scale": 2.0, "num_steps": 5, "solver": "euler"},
    )
    save_checkpoint(checkpoint, folder, torch.float16)
    return folder


@pytest.fixture(scope="session")
def flow_checkpoint(flow_dir: Path) -> Checkpoint:
    """The same, read back."""
    return load_checkpoint(flow_dir)


@pytest.fixture(scope="session")
def flow_bundle_dir(flow_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random JanusFlow's bundle. Do not change it: copy it."""

    def make(folder: Path) -> None:
        export_bundle(flow_checkpoint, folder, max_length=96, report=lambda line: None)

    return made_once(tmp_path_factory, "random-flow", make)


@pytest.fixture(scope="session")
def tiny_janus(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """tiny-janus's bundle of a kind: "int4", which our own decoder runs where the processor can,
    "fp32", or "portable", as graphs. Do not change it: copy it."""

    def made(kind: str) -> Path:
        def make(folder: Path) -> None:
            checkpoint = load_checkpoint(CHECKPOINTS / "tiny-janus")
            export_bundle(
                checkpoint, folder, max_length=256, report=lambda line: None, **_HOW[kind]
            )

        return made_once(tmp_path_factory, f"tiny-janus-{kind}", make)

    return made


_HOW: dict[str, dict[str, Any]] = {
    "int4": {"quantize": "int4"},
    "fp32": {},
    "portable": {"lowering": "portable"},
}


@pytest.fixture(scope="session")
def int4_dir(tiny_janus: Callable[[str], Path]) -> Path:
    """tiny-janus in 4 bits. Do not change it: copy it."""
    return tiny_janus("int4")


@pytest.fixture(scope="session")
def flow_session(flow_bundle_dir: Path) -> Session:
    """An open session on the random JanusFlow bundle."""
    return Session(open_bundle(flow_bundle_dir), num_threads=1)


class Cli:
    """Runs ``janus-edge`` in a folder."""

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd

    def __call__(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "janus_edge", *map(str, words)],
            cwd=self.cwd,
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            env=os.environ | {"COLUMNS": "100"},
        )

    def fails(self, *words: str | Path) -> str:
        """Run, demand a non-zero exit and exactly one line on standard error; return it."""
        done = self(*words)
        assert done.returncode != 0, done
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
        assert done.stdout == ""
        return lines[0]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line in an empty folder."""
    return Cli(tmp_path)
