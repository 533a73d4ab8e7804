"""Every example runs, and shows what it says."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.serve.conftest import serving

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TESTED = {
    "README.md",
    "contact_sheet.sh",
    "draw_and_ask.py",
    "langchain_client.py",
    "notebook.ipynb",
    "openai_client.py",
    "ray_batch.py",
    "stream.py",
}


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
    assert first == "drawn.png: a red apple, seed 2" and (tmp_path / "drawn.png").exists()
    assert answers == [
        "what is in the picture? an apple on a white background",
        "what colour is the background? white",
    ]


def test_stream(tmp_path: Path) -> None:
    assert run(tmp_path, sys.executable, EXAMPLES / "stream.py") == ["cat.png"]
    assert len(list(tmp_path.glob("preview-*.png"))) == 12


def test_contact_sheet(tmp_path: Path) -> None:
    assert run(tmp_path, EXAMPLES / "contact_sheet.sh")[-1] == "a unicorn"
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "sheet.png",
        "unicorn.png",
        *(f"unicorn-{n}-{n + 4}.png" for n in range(1, 5)),
    }


def test_notebook() -> None:
    """Its cells run, and its outputs are those that it was saved with."""
    saved = nbformat.read(EXAMPLES / "notebook.ipynb", 4)
    found = NotebookClient(copy.deepcopy(saved), timeout=120).execute()
    for cell, before in zip(found.cells, saved.cells, strict=True):
        shown, expected = (list(map(_kinds, each.get("outputs", []))) for each in (cell, before))
        assert shown == expected
    assert [cell.cell_type for cell in found.cells].count("code") >= 5


def _kinds(output: dict[str, Any]) -> tuple[str, str, bool]:
    return output["output_type"], output.get("text", ""), "image/png" in output.get("data", {})


def test_langchain_client(tmp_path: Path) -> None:
    with serving("--threads", "1") as server:
        words = [EXAMPLES / "langchain_client.py", "apple.png", server.url]
        run(tmp_path, sys.executable, "-m", "janus_edge", "generate", "a red apple", "-o", words[1])
        lines = run(tmp_path, sys.executable, *words)
    assert lines == [
        "what is in the picture? an apple on a white background",
        "how many apples are there? one",
    ]


@pytest.mark.slow
def test_ray_batch(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    items = '{"prompt": "a star", "seed": 1}\n{"prompt": "a cat", "id": "c"}\n'
    (tmp_path / "items.jsonl").write_text(items, encoding="utf-8")
    lines = run(tmp_path, sys.executable, EXAMPLES / "ray_batch.py", "items.jsonl", "out")
    assert sorted(lines) == ["1 {'seed': 1}", "c {'seed': 0}"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"1.png", "c.png"}


def test_openai_client(tmp_path: Path) -> None:
    with serving("--threads", "1") as server:
        *events, answer = run(tmp_path, sys.executable, EXAMPLES / "openai_client.py", server.url)
    assert events == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]
    assert answer == "an apple on a white background" and (tmp_path / "drawn.png").exists()
