"""A backend and a model of an existing family take what CONTRIBUTING's table says, and no more."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from janus_edge.model import published
from janus_edge.model.config import JanusConfig, VisionConfig
from tests.pages import ROOT
from tests.sealed import copy_of, seal

# By file, as the table's row has them: what stands there, and what is put in its place.
BACKEND = {
    "runtime/backends/__init__.py": (
        "BACKENDS = {\n",
        'BACKENDS = {\n    "mine": Backend("janus_edge.runtime.backends.mine", _named("mine")),\n',
    ),
    "runtime/devices.py": (
        '    "onnxruntime": _why_no_graphs,\n',
        '    "mine": lambda *_: None,\n',
    ),
    "runtime/contract.py": (
        "_CACHE_TYPES = {\n",
        '_CACHE_TYPES = {\n    "mine": ("float32",),\n',
    ),
    "runtime/manifest.py": (
        'backend: Literal["onnxruntime", ',
        'backend: Literal["onnxruntime", "mine", ',
    ),
}
MODULE = """
from janus_edge.runtime.backends import onnxruntime

def load(bundle, name, shared):
    print(f"mine: {bundle.path(name).name}\\n", end="")  # in one write: engines open at once
    return onnxruntime.load(bundle, name, shared)
"""
DRAW = """
import sys, janus_edge
session = janus_edge.Session(janus_edge.open_bundle(sys.argv[1]), device="cpu")
for event in session.generate_image(janus_edge.ImageRequest(prompt="three red circles")):
    if isinstance(event, janus_edge.Image):
        print(event.codes.tolist())
"""


def drawn(bundle: Path, package: Path | None = None) -> list[str]:
    """Return what the program above prints, run with a copy of the package, or with the package."""
    code = DRAW if package is None else f"import sys; sys.path.insert(0, {str(package)!r}){DRAW}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle)], capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_backend(tmp_path: Path) -> None:
    """In a copy of the package, by the row's files alone; it draws the codes of the shipped one."""
    package = tmp_path / "package/janus_edge"
    shutil.copytree(ROOT / "api", package)
    shutil.copytree(ROOT / "runtime", package / "runtime")
    for name, (before, after) in BACKEND.items():
        text = (package / name).read_text(encoding="utf-8")
        assert text.count(before) == 1, name
        (package / name).write_text(text.replace(before, after), encoding="utf-8")
    (package / "runtime/backends/mine.py").write_text(MODULE, encoding="utf-8")

    def change(manifest: dict) -> None:  # type: ignore[type-arg]
        for component in manifest["components"].values():
            if component["backend"] == "onnxruntime":
                component["backend"] = "mine"

    bundle = seal(copy_of("tiny-janus", tmp_path / "bundle"), change)
    *opened, codes = drawn(bundle, package.parent)
    assert "mine: decoder.onnx" in opened
    assert [codes] == drawn(ROOT / "bundles/tiny-janus")


def test_a_model_of_an_existing_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """A config whose vision encoder has a name of its own takes a row of the table of names."""
    raw = json.loads(
        (ROOT / "tests/published/config-janus-pro-1b.json").read_text(encoding="utf-8")
    )
    name = "siglip_small_patch16_384"
    raw["vision_config"]["params"]["model_name"] = name
    with pytest.raises(ValueError, match=name):
        published.read_config(raw)
    sizes = VisionConfig(image_size=384, patch_size=16, width=1024, layers=12, heads=16)
    monkeypatch.setitem(published.SIGLIP, name, sizes)
    config = published.read_config(raw)
    assert isinstance(config, JanusConfig) and config.vision == sizes
