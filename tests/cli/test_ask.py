from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.new("RGB", (50, 30), "red").save(tmp_path / "p.png")
    return tmp_path / "p.png"


def test_answers(cli, bundle_dir: Path, image: Path) -> None:
    done = cli("ask", image, "what is it?", "--model", bundle_dir, "--max-tokens", "5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    again = cli("ask", image, "what is it?", "--model", bundle_dir, "--max-tokens", "5")
    assert again.stdout == done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ask", "p.png", ""], "the question is empty"),
        (["ask", "p.png", "star " * 600], "make it shorter"),
        (["ask", "none.png", "what?"], "none.png: No such file"),
        (["ask", ".", "what?"], "Is a directory"),
        (["ask", "text.png", "what?"], "not an image"),
        (["ask", "cut.png", "what?"], "cut.png"),
        (["ask", "p.png", "what?", "--temperature", "-2"], "temperature is -2"),
        (["ask", "p.png", "what?", "--max-tokens", "0"], "max_tokens is 0"),
        (["ask", "p.png"], "question"),
    ],
)
def test_bad_input_is_one_line(
    cli, bundle_dir: Path, image: Path, words: list[str], says: str
) -> None:
    image.with_name("text.png").write_text("hello", encoding="utf-8")
    image.with_name("cut.png").write_bytes(image.read_bytes()[:60])
    assert says in cli.fails(*words, "--model", bundle_dir)


def test_an_image_from_standard_input(bundle_dir: Path, image: Path) -> None:
    words = [sys.executable, "-m", "janus_edge", "ask", "-", "what is it?", "--model", bundle_dir]

    def run(given: bytes, *more: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*words, "--max-tokens", "5", *more],
            cwd=image.parent,
            input=given,
            capture_output=True,
        )

    named = subprocess.run(
        [word if word != "-" else "p.png" for word in words] + ["--max-tokens", "5"],
        cwd=image.parent,
        capture_output=True,
    )
    assert named.stdout and run(image.read_bytes()).stdout == named.stdout
    assert run(b"").stderr == b"error: standard input is empty; give it an image\n"
    assert run(b"hello").stderr.startswith(b"error: standard input: not an image")
    assert b"can be read once" in run(image.read_bytes(), "--and", "-").stderr
