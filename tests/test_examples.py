"""Every example runs, and shows what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.serve.conftest import serving

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TESTED = {"draw_and_ask.py", "stream.py", "contact_sheet.sh", "openai_client.py", "README.md"}


def run(folder: Path, *words: str | Path) -> list[str]:
    """The lines that a command prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_all_are_here() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == TESTED


def test_draw_and_ask(tmp_path: Path) -> None:
    first, *answers = run(tmp_path, sys.executable, EXAMPLES / "draw_and_ask.py")
    assert first == "drawn.png: three red circles, seed 2" and (tmp_path / "drawn.png").exists()
    assert answers == ["how many circles are there? three", "what colour are the circles? red"]


def test_stream(tmp_path: Path) -> None:
    assert run(tmp_path, sys.executable, EXAMPLES / "stream.py") == ["star.png"]
    assert len(list(tmp_path.glob("preview-*.png"))) == 8


def test_contact_sheet(tmp_path: Path) -> None:
    assert run(tmp_path, EXAMPLES / "contact_sheet.sh")[-1] == "purple"
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "sheet.png",
        "triangle.png",
        *(f"triangle-{n}-{n + 4}.png" for n in range(1, 5)),
    }


def test_openai_client(tmp_path: Path) -> None:
    with serving("--model", "tiny-janus", "--threads", "1") as server:
        *events, answer = run(tmp_path, sys.executable, EXAMPLES / "openai_client.py", server.url)
    assert events == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]
    assert answer == "red" and (tmp_path / "drawn.png").exists()
