"""libjanus_edge as CMake builds it, also with sanitizers; what the small bundles draw and answer in
Python."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PilImage

from janus_edge.export.bundle.writer import export_bundle
from janus_edge.model.janusflow import JanusFlow
from janus_edge.model.vae import VAE
from janus_edge.model.weights import load_checkpoint
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.events import Event, Image, Preview, Text
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session
from tests.native import arm
from tests.native.capi import Api
from tests.shared import locked, made_once, shared_folder

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "native"
SUPPRESSIONS = Path(__file__).parent / "tsan.supp"
# A kind of build: its sanitizers, or for Arm "aarch64", whose programs run under qemu.
ARM = pytest.param("aarch64", marks=pytest.mark.arm)
_TARGETS = {"thread": ("stress", "bits")}  # what runs of a kind, where it is not all


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a compiler nothing here can run."""
    missing = [tool for tool in ("cmake", "g++") if shutil.which(tool) is None]
    if missing:
        skip = pytest.mark.skip(reason=f"{' and '.join(missing)} are missing")
        for item in items:
            if Path(item.fspath).parent == Path(__file__).parent:
                item.add_marker(skip)


def checked(*words: str | Path, cwd: Path = ROOT, **env: str) -> str:
    """Run a command, which must not fail; what it printed."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=os.environ | env,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


@dataclasses.dataclass(frozen=True)
class Build:
    """A build folder."""

    folder: Path
    is_arm: bool = False

    @property
    def library(self) -> Path:
        return self.folder / "libjanus_edge.so.1"

    def program(self, name: str) -> Path:
        """An example or one of tests/native."""
        places = ("examples", "tests")
        (found,) = (p for place in places if (p := self.folder / place / name).is_file())
        return found

    def command(self, name: str, cpu: str = "max") -> list[str | Path]:
        """Return what runs a program; cpu: qemu's name of a processor."""
        return [*(arm.emulator(self.folder, cpu) if self.is_arm else []), self.program(name)]

    def make(self, *targets: str) -> Build:
        """Build these targets, or all."""
        which = ["--target", *targets] if targets else []
        with locked(self.folder):
            checked("cmake", "--build", self.folder, "-j", "2", *which)
        return self


@pytest.fixture(scope="session")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Build]:
    """A build folder of this kind, where nothing is built yet."""
    if not (NATIVE / "headers").is_dir():
        checked(sys.executable, NATIVE / "fetch_headers.py")

    @functools.cache
    def made(kind: str) -> Build:
        folder = shared_folder(tmp_path_factory, "builds") / (re.sub(r"\W", "-", kind) or "release")
        folder.mkdir(exist_ok=True)
        options = ["-DJANUS_EDGE_TESTS=ON"]
        options += ["-DCMAKE_C_FLAGS=-Werror", "-DCMAKE_CXX_FLAGS=-Werror"]
        is_arm = kind.startswith("aarch64")
        if sanitize := kind.removeprefix("aarch64").lstrip(":"):
            options += [f"-DJANUS_EDGE_SANITIZE={sanitize}", "-DCMAKE_BUILD_TYPE=Debug"]
            options += ["-DCMAKE_CXX_FLAGS_DEBUG=-O0"]  # compiles in two thirds of -O1's time
        else:
            options += ["-DJANUS_EDGE_EXAMPLES=ON"]
        with locked(folder):
            own = arm.options(folder) if is_arm else []
            checked("cmake", "-S", NATIVE, "-B", folder, *options, *own)
        return Build(folder, is_arm)

    return made


@pytest.fixture(scope="session")
def build(configured: Callable[[str], Build]) -> Callable[[str], Build]:
    """A build with these sanitizers, or none of them, or for Arm: each is made once."""
    return functools.cache(lambda kind: configured(kind).make(*_TARGETS.get(kind, ())))


@pytest.fixture(scope="session")
def release(build: Callable[[str], Build]) -> Build:
    """As a user builds it."""
    return build("")


@pytest.fixture(scope="session")
def api(release: Build) -> Api:
    """Its library, loaded."""
    return Api(release.library)


@pytest.fixture(scope="session")
def flow_int4_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny-flow in 4 bits; its autoencoder is a random one whose channels our kernels take."""

    def make(folder: Path) -> None:
        checkpoint = load_checkpoint(ROOT / "checkpoints/tiny-flow")
        model = checkpoint.model
        assert isinstance(model, JanusFlow)
        torch.manual_seed(0)
        model.vae_config = dataclasses.replace(model.vae_config, block_out_channels=(32, 48, 64))
        model.vae = VAE(model.vae_config)
        export_bundle(checkpoint, folder, max_length=128, quantize="int4", report=lambda line: None)

    return made_once(tmp_path_factory, "tiny-flow-int4", make)


@dataclasses.dataclass(frozen=True)
class Reference:
    """A bundle in Python, by one thread."""

    folder: Path
    session: Session

    def drawn(self, request: ImageRequest) -> list[Image]:
        return [e for e in self.session.generate_image(request) if isinstance(e, Image)]

    def previews(self, request: ImageRequest) -> list[Preview]:
        return [e for e in self.session.generate_image(request) if isinstance(e, Preview)]

    def answer(self, request: AskRequest) -> str:
        events: list[Event] = list(self.session.ask(request))
        return "".join(event.text for event in events if isinstance(event, Text))


def reference(folder: Path | str) -> Reference:
    bundle = open_bundle(folder)
    return Reference(bundle.folder, Session(bundle, num_threads=1))


@pytest.fixture(scope="session", params=["tiny-janus", "tiny-flow"])
def shipped(request: pytest.FixtureRequest) -> Reference:
    """The bundles of shapes, a Janus and a JanusFlow."""
    return reference(request.param)


def as_image(pixels: np.ndarray) -> PilImage.Image:
    return PilImage.fromarray(pixels)
