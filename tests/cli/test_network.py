"""Nothing is looked up, and nothing but our own cache is left in the home folder (docs/cli.md)."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.network import run_watched

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("gcc") is None, reason="needs Linux and gcc"
)
CLI = (sys.executable, "-m", "janus_edge")


def _is_ours(path: str) -> bool:
    return path.startswith(".cache/janus-edge/checked/")


def test_generate_and_ask(tmp_path: Path) -> None:
    """Long enough (4 s) for ONNX Runtime to send what it collects, were it not told not to."""
    draw = [*CLI, "generate", "a red apple", "-n", "16"]
    _, lookups, left = run_watched(draw, tmp_path)
    assert lookups == [] and left and all(map(_is_ours, left))
    ask = [*CLI, "ask", "out-1.png", "what is this?"]
    _, lookups, left = run_watched(ask, tmp_path)
    assert lookups == [] and all(map(_is_ours, left))


def test_the_shim_sees_and_refuses(tmp_path: Path) -> None:
    """What the tests above would find."""
    code = """
import socket
try:
    socket.getaddrinfo("example.invalid", 443)
except socket.gaierror:
    pass
with socket.socket() as stream:
    try:
        stream.connect(("192.0.2.1", 443))
    except OSError as error:
        print(error.strerror)
"""
    done, lookups, left = run_watched([sys.executable, "-c", code], tmp_path)
    assert done.stdout == "Network is unreachable\n"
    assert lookups == ["getaddrinfo example.invalid", "connect 192.0.2.1"] and left == []


def test_onnxruntime_by_its_own_default_is_seen(tmp_path: Path) -> None:
    """It leaves a device's id: if this fails, it has stopped to, and nothing need be turned off."""
    _, _, left = run_watched([sys.executable, "-c", "import onnxruntime"], tmp_path)
    assert any(path.endswith(".onnxruntime/deviceid") for path in left)
