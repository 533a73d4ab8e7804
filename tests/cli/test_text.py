"""Words of the command line and names of files that are no UTF-8."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

PROMPT, NAME = b"a caf\xe9 \xe2\x82!", b"\xff\xe2.png"


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_bytes_that_are_no_text(tmp_path: Path, locale: str) -> None:
    """U+FFFD as docs/prompts.md has it; bytes of a file's name are printed as escapes."""
    words = [sys.executable, "-m", "janus_edge", "generate", PROMPT, "-o", NAME]
    env = os.environ | {"LC_ALL": locale}
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(rb"\udcff\udce2.png") and done.stdout.count(b"\n") == 1
    with Image.open(os.path.join(os.fsencode(tmp_path), NAME)) as image:  # noqa: PTH118
        assert image.text["prompt"] == "a caf\ufffd \ufffd!"
    wrong = subprocess.run(
        [*words[:4], b"x", b"--model", b"\xff"], cwd=tmp_path, capture_output=True, env=env
    )
    assert wrong.returncode == 1 and wrong.stderr.startswith(b"error: ")
    assert wrong.stderr.count(b"\n") == 1 and b"no such bundle" in wrong.stderr
