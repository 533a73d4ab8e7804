"""Images in real terminals, on a screen of their own: xterm with sixel, and kitty.

apt-get install xvfb xterm kitty imagemagick libgl1-mesa-dri
pytest -m slow tests/cli/test_terminals.py
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TERMINALS = {
    "xterm": ("xterm", "-ti", "vt340", "-xrm", "XTerm*numColorRegisters: 256", "-e"),
    "kitty": ("kitty", "-o", "confirm_os_window_close=0", "-o", "remember_window_size=no"),
}
RED, ENOUGH = (215, 40, 40), 2000  # px; three circles have more


@pytest.fixture
def screen() -> Iterator[dict[str, str]]:
    """The environment of a screen."""
    missing = [each for each in ("Xvfb", "import") if shutil.which(each) is None]
    if missing:
        pytest.skip(f"needs {missing[0]}")
    server = subprocess.Popen(("Xvfb", ":77", "-screen", "0", "900x700x24"))
    time.sleep(2)
    try:
        yield {**os.environ, "DISPLAY": ":77", "LIBGL_ALWAYS_SOFTWARE": "1"}
    finally:
        server.terminate()
        server.wait(10)


def _shot(screen: dict[str, str]) -> np.ndarray:
    command = ("import", "-window", "root", "png:-")
    made = subprocess.run(command, env=screen, check=True, capture_output=True).stdout
    return np.asarray(Image.open(io.BytesIO(made)).convert("RGB")).astype(int)


@pytest.mark.slow
@pytest.mark.parametrize("terminal", TERMINALS)
def test_an_image_is_seen(terminal: str, screen: dict[str, str], tmp_path: Path) -> None:
    if shutil.which(terminal) is None:
        pytest.skip(f"needs {terminal}")
    program = (sys.executable, "-m", "janus_edge", "generate", "three red circles", "--seed", "7")
    shown_as = ("--model", "tiny-janus", "--show", "-o", "red.png")
    words = " ".join((*program[:4], f"'{program[4]}'", *program[5:], *shown_as))
    command = (*TERMINALS[terminal], "sh", "-c", f"{words}; sleep 120")
    shown = subprocess.Popen(command, env=screen, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        red, until = 0, time.monotonic() + 60
        while red < ENOUGH and time.monotonic() < until:
            time.sleep(1)
            red = int((np.abs(_shot(screen) - RED).max(2) < 30).sum())
        assert red >= ENOUGH
        assert (tmp_path / "red.png").exists()
    finally:
        shown.kill()
        shown.wait(10)
