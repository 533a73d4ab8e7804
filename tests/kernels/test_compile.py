"""Every kernel compiles for every GPU, on a machine without one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from janus_edge.kernels.compile import TARGETS, compile_kernel
from janus_edge.kernels.spec import Shape
from janus_edge.kernels.specs import specs

QUICK = (80, 90, 120)  # without and with kernels that overlap, and the newest
ALL = [
    target if target in QUICK else pytest.param(target, marks=pytest.mark.slow)
    for target in TARGETS
]


def compile_into(folder: Path, target: int) -> None:
    """In a process of its own: what is interpreted here does not compile here."""
    kept = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "janus_edge.kernels.compile", str(folder)]
    subprocess.run([*command, "--target", f"sm_{target}"], check=True, env=kept)


@pytest.mark.parametrize("target", ALL)
def test_all_kernels_for_all_targets(tmp_path: Path, target: int) -> None:
    compile_into(tmp_path, target)
    entries = json.loads((tmp_path / "kernels.json").read_text(encoding="utf-8"))
    assert {entry["name"] for entry in entries} == {spec.name for spec in specs(Shape())}
    for entry in entries:
        cubin = (tmp_path / entry["file"]).read_bytes()
        assert entry["target"] == f"sm_{target}" and cubin[:4] == b"\x7fELF"
        assert hashlib.sha256(cubin).hexdigest() == entry["sha256"]
        assert entry["symbol"].encode() in cubin
        assert entry["shared_bytes"] <= 99 * 1024  # the launcher asks for more than 48 KB


def test_the_interpreter_compiles_nothing(tmp_path: Path) -> None:
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("kernels run on the device here")
    with pytest.raises(RuntimeError, match="unset it"):
        compile_kernel(specs(Shape())[0], 90, tmp_path)
