"""The C API draws and answers on Arm what it does here, by ONNX Runtime and the CPU kernels for
Arm, under qemu. Slow: one image and one question of each bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from janus_edge.runtime.bundle import SHIPPED
from tests.native import arm, capi
from tests.native.conftest import Build, checked
from tests.native.test_conformance import PROMPTS, QUESTIONS

pytestmark = pytest.mark.arm
FASTEST = "max,sve=off"  # to emulate: with SVE, ONNX Runtime takes three times as long


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX Runtime for Arm."""
    return arm.onnxruntime_library(tmp_path_factory.mktemp("onnxruntime"))


@pytest.mark.parametrize("name", ["tiny-janus", "tiny-flow", "int4"])
def test_it_draws_and_answers_what_this_machine_does(
    build: Callable[[str], Build],
    release: Build,
    library: Path,
    int4_dir: Path,
    tmp_path: Path,
    name: str,
) -> None:
    """The same codes and text; pixels and latents are floats that ONNX Runtime rounds otherwise."""
    bundle = int4_dir if name == "int4" else SHIPPED / name
    pixels, question = QUESTIONS[0]
    Image.fromarray(pixels).save(tmp_path / "0.png")
    lines = [f"draw\t7\t{PROMPTS[0]}", f"ask\t0\t{tmp_path / '0.png'}\t{question}"]
    (tmp_path / "cases.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = (bundle, "cases", tmp_path / "cases.txt")
    command = build("aarch64").command("stress", FASTEST)
    found = checked(*command, library, *words).splitlines()
    expected = checked(release.program("stress"), capi.onnxruntime_library(), *words).splitlines()
    print(found, expected)
    assert found[1] == expected[1]
    if name != "tiny-flow":
        assert found[0].split()[:2] == expected[0].split()[:2]
