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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In a process of its own: what is interpreted here does not compile here."""
    found = tmp_path_factory.mktemp("cubins")
    kept = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "janus_edge.kernels.compile", str(found)]
    subprocess.run(command, check=True, env=kept)
    return found


def test_all_kernels_for_all_targets(folder: Path) -> None:
    entries = json.loads((folder / "kernels.json").read_text(encoding="utf-8"))
    names = {spec.name for spec in specs(Shape())}
    expected = {(name, f"sm_{target}") for name in names for target in TARGETS}
    assert {(entry["name"], entry["target"]) for entry in entries} == expected
    for entry in entries:
        cubin = (folder / entry["file"]).read_bytes()
        assert cubin[:4] == b"\x7fELF"
        assert hashlib.sha256(cubin).hexdigest() == entry["sha256"]
        assert entry["symbol"].encode() in cubin
        assert entry["shared_bytes"] <= 99 * 1024  # the launcher asks for more than 48 KB


def test_the_interpreter_compiles_nothing(tmp_path: Path) -> None:
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("kernels run on the device here")
    with pytest.raises(RuntimeError, match="unset it"):
        compile_kernel(specs(Shape())[0], 90, tmp_path)
