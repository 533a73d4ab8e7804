"""The same changed bundles in Python and by the C API: both compute the same, or both refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.native import capi
from tests.native.conftest import Build
from tests.runtime.test_mutated_bundle import MANY, is_orderly, outcomes

REFUSED = (capi.E_ARGUMENT, capi.E_BUNDLE, capi.E_DEVICE, capi.E_RUNTIME)


def _agree(case: dict[str, Any]) -> bool:
    python, native = case["python"], case["native"]
    is_refused = native in [f"status {status}" for status in REFUSED]
    if not is_orderly(python) or not (native.startswith("ok ") or is_refused):
        return False
    # each language has a tokenizer's file of its own, and Python opens bundles of older versions
    if "tokenizer" in case["changed"]:
        return True
    return python == native or (is_refused and not python.startswith("ok "))


@pytest.mark.parametrize("count", [40, MANY])
@pytest.mark.parametrize("name", ["tiny-janus", "tiny-flow"])
def test_python_and_c_agree(release: Build, name: str, count: int, tmp_path: Path) -> None:
    found = outcomes(name, 10_000, count, tmp_path, str(release.library))
    assert [each for each in found if not _agree(each)] == []
