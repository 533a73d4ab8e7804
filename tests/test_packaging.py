"""What the root folders are called once installed, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import janus_edge

ROOT = Path(__file__).resolve().parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "setuptools"
]
DEVELOPERS = "janus_edge.bench.programs"  # benchmark programs that only developers run


def test_every_package_folder_is_listed() -> None:
    """A missing nested package disappears from wheels silently."""
    found = set()
    for package, folder in SETUPTOOLS["package-dir"].items():
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join([package, *parts]))
    shipped = {name for name in found if not name.startswith(DEVELOPERS)}
    assert shipped == set(SETUPTOOLS["packages"]) and shipped < found


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, janus_edge, janus_edge.cli.app; "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'triton', 'numpy', 'PIL', 'scipy'}; "
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout.strip() == ""


def test_the_runtime_works_without_torch_and_onnx(bundle_dir: Path) -> None:
    code = f"""
import sys
for name in ("torch", "onnx", "onnxscript", "safetensors", "scipy", "triton"):
    sys.modules[name] = None
import pytest

import janus_edge
session = janus_edge.Session(janus_edge.open_bundle({str(bundle_dir)!r}))
request = janus_edge.ImageRequest(prompt="a red circle")
images = [e for e in session.generate_image(request) if isinstance(e, janus_edge.Image)]
print(images[0].pixels.shape)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout.strip() == "(32, 32, 3)"


def test_all_public_names_resolve() -> None:
    for name in janus_edge.__all__:
        assert getattr(janus_edge, name) is not None
    assert set(janus_edge._HOME_OF) == set(janus_edge.__all__) - {"__version__"}


def test_version_matches_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert janus_edge.__version__ == project["version"]


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [
        ("pull", "torch", "pull"),
        ("export", "onnx", "export"),
        ("eval", "scipy.ndimage", "evals"),
        ("data", "webdataset", "train"),
        ("export", "triton", "export,kernels,tensorrt"),
    ],
)
def test_a_command_names_the_extra_it_needs(command: str, module: str, extra: str) -> None:
    from janus_edge.cli.main import _line_and_code

    line, code = _line_and_code(ModuleNotFoundError("no", name=module), command)
    assert code == 1 and line.endswith(f"run: pip install 'janus-edge[{extra}]'")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extra.split(",")) <= set(project["optional-dependencies"])
