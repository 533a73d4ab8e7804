"""README's commands and Python draw what they say; tests/test_docs.py runs the blocks of all pages,
tests/native/test_package.py builds the C program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from janus_edge.evals.things import judge
from janus_edge.shapes.scorer import find
from janus_edge.things.wanted import Caption, Wanted
from tests.pages import ROOT, blocks, commands, make_folder, run_command
from tests.test_docs import why_not_run

README = ROOT / "README.md"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_commands(tmp_path: Path) -> None:
    """Those of janus-edge in their order, and what is printed below them."""
    make_folder(tmp_path)
    found = [
        command
        for block in blocks(README)
        if block.language in ("sh", "console")
        for command in commands(block)
        if why_not_run(command.text) is None
    ]
    assert len(found) >= 3
    for command in found:
        done = run_command(command, tmp_path)
        assert done.returncode == 0, done.stderr
        assert command.output in ("", done.stdout), command.text
    apple = Caption(
        text="a red apple",
        language="english",
        category="single_thing",
        wanted=(Wanted(thing="apple"),),
    )
    assert judge(pixels(tmp_path / "out.png"), apple)["geneval"]
    two = {(part.colour, part.shape): part for part in find(pixels(tmp_path / "out-1.png"))[1]}
    assert set(two) == {("blue", "square"), ("yellow", "star")}
    assert two["blue", "square"].x < two["yellow", "star"].x - 10


def test_python(tmp_path: Path) -> None:
    (block,) = blocks(README, "python")
    done = subprocess.run(
        [sys.executable, "-c", block.text], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "an apple on a white background\n" and (tmp_path / "apple.png").exists()
