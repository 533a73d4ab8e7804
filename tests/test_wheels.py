"""The wheels of scripts/build-wheels: what they hold, and that one draws without a compiler."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from janus_edge.runtime.backends.cpu_library import library
from tests.native.capi import Api
from tests.native.conftest import ROOT, checked

C_LIBRARY = "janus_edge/native/lib/libjanus_edge.so.1"
KERNELS = "janus_edge/runtime/backends/_cpu_kernels.abi3.so"
needs_library = pytest.mark.skipif(library() is None, reason="AVX-512 VNNI is needed")
HAS_BOTH = """
from janus_edge.native import PREFIX
from janus_edge.runtime.backends import cpu_library
assert cpu_library.library() is not None
print(PREFIX / "lib/libjanus_edge.so.1")
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each machine's wheel, from the commit that is checked out."""
    folder = tmp_path_factory.mktemp("dist")
    checked(ROOT / "scripts/build-wheels", folder)
    return {path.stem.partition("2_28_")[2]: path for path in folder.iterdir()}


@pytest.mark.slow
def test_what_they_hold(wheels: dict[str, Path]) -> None:
    assert sorted(wheels) == ["aarch64", "x86_64"]
    for machine, path in wheels.items():
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
            magic = file.read(C_LIBRARY)[18:20]  # e_machine of the ELF header
        assert magic == {"x86_64": b"\x3e\0", "aarch64": b"\xb7\0"}[machine]
        assert [name for name in names if "_cpu_kernels" in name] == [KERNELS]


@pytest.mark.slow
@needs_library
def test_it_draws_without_a_compiler(wheels: dict[str, Path], tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    programs = tmp_path / "venv/bin"
    words = ("install", "-q", "-c", ROOT / "constraints.txt", wheels["x86_64"])
    checked(programs / "pip", *words, PATH="/nowhere")
    c_library = checked(programs / "python", "-c", HAS_BOTH, cwd=tmp_path, PATH="/nowhere").strip()
    assert c_library.startswith(str(programs.parent))
    for name, folder in (("wheel.png", programs), ("here.png", Path(sys.executable).parent)):
        drawn = ("generate", "a red apple", "-o", name)
        checked(folder / "janus-edge", *drawn, cwd=tmp_path, PATH="/nowhere")
    by_wheel, here = (
        np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("wheel", "here")
    )
    api = Api(Path(c_library))
    with api.session(ROOT / "bundles/tiny-things") as session:
        (by_c,) = api.draw(session, prompt=b"a red apple")
    assert np.array_equal(by_wheel, here) and np.array_equal(by_c.pixels, here)
