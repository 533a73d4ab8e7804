"""The C API draws and answers on Arm what it does here, by ONNX Runtime and the CPU kernels for
Arm, under qemu. Slow: one image and one question of each bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from janus_edge.runtime.bundle import SHIPPED
from janus_edge.runtime.requests import AskRequest, ImageRequest
from tests.native import arm
from tests.native.conftest import Build, as_image, checked, reference
from tests.native.test_conformance import PROMPTS, QUESTIONS

pytestmark = pytest.mark.arm
CODE = np.int32  # je_event.codes
FASTEST = "max,sve=off"  # to emulate: with SVE, ONNX Runtime takes three times as long


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX Runtime for Arm."""
    return arm.onnxruntime_library(tmp_path_factory.mktemp("onnxruntime"))


def fnv(raw: bytes) -> int:
    """Return the hash that stress.cpp prints."""
    value = 14695981039346656037
    for byte in raw:
        value = (value ^ byte) * 1099511628211 % 2**64
    return value


@pytest.mark.parametrize("name", ["tiny-janus", "int4", "tiny-flow"])
def test_it_draws_and_answers_what_python_does_here(
    build: Callable[[str], Build], library: Path, int4_dir: Path, tmp_path: Path, name: str
) -> None:
    """The same codes and text. JanusFlow's latents are floats, which ONNX Runtime rounds otherwise
    there: it only answers."""
    here = reference(int4_dir if name == "int4" else SHIPPED / name)
    pixels, question = QUESTIONS[0]
    as_image(pixels).save(tmp_path / "0.png")
    lines = [f"ask\t0\t{tmp_path / '0.png'}\t{question}"]
    if name != "tiny-flow":
        lines.append(f"draw\t7\t{PROMPTS[0]}")
    (tmp_path / "cases.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = build("aarch64").command("stress", FASTEST)
    words = (library, here.folder, "cases", tmp_path / "cases.txt")
    answer, *drawn = checked(*command, *words).splitlines()
    asked = AskRequest(question=question, images=(as_image(pixels),))
    assert answer == f"ask\t{here.answer(asked)}"
    if drawn:
        (image,) = here.drawn(ImageRequest(prompt=PROMPTS[0], seed=7))
        assert image.codes is not None
        expected = fnv(image.codes.astype(CODE).tobytes())
        assert drawn[0].startswith(f"draw\t{expected:x} ")
