"""Weights in tiles in the C API: the graph's arrays that are made from them are Python's, and tiles
that are wrong are refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from janus_edge.runtime.tiles import LAYOUTS, from_tiles
from tests.native import capi
from tests.native.conftest import ARM, Build, checked
from tests.sealed import seal

SHAPES = [(32, 128), (1, 1), (33, 129), (70, 300), (456, 256)]
DECODER, HEAD = ("decoder", "layers.0.q_proj.weight.tiles"), ("text_head", "logits.weight.tiles")
# In a process of its own: the library reads the environment once.
WORK = """
import sys
from pathlib import Path
from tests import mutated
library = sys.argv[1]
for folder in map(Path, sys.argv[2:]):
    print(mutated.apart(lambda: mutated.by_python(folder)))
    print(mutated.apart(lambda: mutated.by_native(folder, library)))
"""
Change = Callable[[dict[str, Any], str], Any]  # of a component's tensors and a name


def outcomes(release: Build, kernels: str, *folders: Path) -> list[tuple[str, str]]:
    """How Python and the C API end with each bundle; see tests/mutated.py."""
    command = (sys.executable, "-c", WORK, release.library, *folders)
    lines = checked(*command, JANUS_EDGE_CPU_KERNELS=kernels).splitlines()
    assert len(lines) == 2 * len(folders)
    return list(zip(lines[::2], lines[1::2], strict=True))


@pytest.mark.parametrize("kind", ["", ARM])
@pytest.mark.parametrize("dtype", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_arrays_are_those_of_python(
    build: Callable[[str], Build], tmp_path: Path, dtype: str, shape: tuple[int, int], kind: str
) -> None:
    """Of any bytes, behind other bytes, up to the end of the file."""
    layout, offset = LAYOUTS[dtype], 4096
    size = layout.size(*shape)
    raw = np.random.default_rng(size).integers(0, 256, offset + size, np.uint8)
    raw.tofile(tmp_path / "y.data")
    words = [*build(kind).command("tiles"), tmp_path / "y.data", dtype, *shape]
    done = subprocess.run([*map(str, words), str(offset)], capture_output=True, check=True)
    expected = from_tiles(raw[offset:], *shape, layout)
    assert done.stdout == b"".join(each.tobytes() for each in expected)
    for wrong in (offset + 4, offset - 1):  # beyond the end; not aligned
        refused = subprocess.run(
            [*map(str, words), str(wrong)], capture_output=True, encoding="utf-8"
        )
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "y.weight.tiles is not inside" in refused.stderr


@pytest.mark.parametrize("kernels", ["none", "portable", ""])
def test_both_languages_draw_and_answer_the_same(
    release: Build, int4_dir: Path, kernels: str
) -> None:
    """By the graphs, whose weights are made from the tiles, and by the kernels, which read them."""
    ((python, native),) = outcomes(release, kernels, int4_dir)
    assert python.startswith("ok ")
    assert native == python


def _set(**values: Any) -> Change:
    return lambda tensors, name: tensors[name].update(values)


WRONG: dict[str, Change] = {
    "outside": _set(offset=2**40),
    "of format 2": _set(dtype="uint8"),
    "float32": _set(dtype="float32"),
    "of three axes": _set(shape=[1, 256, 256]),
    "of no axes": _set(shape=[]),
    "of most outputs": _set(shape=[2**31 - 1, 256]),
    "of most inputs": _set(shape=[2**31 - 1, 2**31 - 1]),
    "an output short": lambda tensors, name: tensors[name]["shape"].__setitem__(0, 255),
    "missing": lambda tensors, name: tensors.pop(name),
    "of another layer": lambda tensors, name: tensors.update({"a.tiles": tensors.pop(name)}),
    "of another ending": lambda tensors, name: tensors.update({f"{name}s": tensors.pop(name)}),
}


@pytest.mark.parametrize("kernels", ["", "none"])
@pytest.mark.parametrize(("component", "name"), [DECODER, HEAD])
def test_wrong_tiles_are_refused(
    release: Build, int4_dir: Path, tmp_path: Path, component: str, name: str, kernels: str
) -> None:
    folders = []
    for kind, change in WRONG.items():
        folders.append(shutil.copytree(int4_dir, tmp_path / kind))
        seal(folders[-1], lambda m, do=change: do(m["components"][component]["tensors"], name))
    found = outcomes(release, kernels, *folders)
    expected = dict.fromkeys(WRONG, ("BundleError", f"status {capi.E_BUNDLE}"))
    assert dict(zip(WRONG, found, strict=True)) == expected
