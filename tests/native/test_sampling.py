"""The C++ sampler beside Python's on denormal, huge, equal, infinite and NaN numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from janus_edge.export.tokenizer.compile import compile_tokenizer
from tests.make_vectors import FOLDER, TOKENIZERS, extremes
from tests.native.conftest import ARM, Build, checked


@pytest.mark.parametrize("count", [2000, pytest.param(200_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["", ARM])
def test_any_numbers(build: Callable[[str], Build], tmp_path: Path, count: int, kind: str) -> None:
    """The same code, or both refuse."""
    folder = tmp_path / "vectors"
    shutil.copytree(FOLDER, folder)
    for name, text in TOKENIZERS.items():
        (folder / f"{name}.bin").write_bytes(compile_tokenizer(text))
    cases = list(extremes(np.random.default_rng(count), count))
    assert {case["chosen"] is None for case in cases} == {True, False}
    vectors = json.loads((FOLDER / "sampling.json").read_text(encoding="utf-8"))
    (folder / "sampling.json").write_text(
        json.dumps(vectors | {"extreme": cases}), encoding="utf-8"
    )
    assert checked(*build(kind).command("vectors"), folder).endswith(" 0 wrong\n")
