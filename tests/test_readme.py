"""README's blocks do what it says: commands, Python, and C in tests/native/test_package.py."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from janus_edge.shapes.scorer import Found, find

README = Path(__file__).resolve().parent.parent / "README.md"


def parts(path: Path) -> list[Found]:
    """What an image shows."""
    with Image.open(path) as image:
        return find(np.asarray(image))[1]


def blocks(language: str) -> list[str]:
    """The blocks of a language, "" for those of none."""
    text = README.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [block for each, block in found if each == language]


def test_commands(tmp_path: Path) -> None:
    """Those of janus-edge in their order, and what is printed below them."""
    words = r"\.venv/bin/(janus-edge [^\n&]*)\n((?:(?!```|\$|scripts)[^\n]+\n)*)"
    found = [match for block in blocks("") for match in re.findall(words, block)]
    assert len(found) >= 3
    for line, shown in found:
        done = subprocess.run(
            [sys.executable, "-m", "janus_edge", *shlex.split(line)[1:]],
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr
        assert shown in ("", done.stdout), line
    assert [(part.colour, part.shape) for part in parts(tmp_path / "out.png")] == [
        ("red", "circle")
    ] * 3
    two = {(part.colour, part.shape): part for part in parts(tmp_path / "out-1.png")}
    assert set(two) == {("blue", "square"), ("yellow", "star")}
    assert two["blue", "square"].x < two["yellow", "star"].x - 10


def test_python(tmp_path: Path) -> None:
    (code,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    *progress, shape = done.stdout.splitlines()
    assert progress[-1] == "64 of 64" and shape == "(64, 64, 3)"
