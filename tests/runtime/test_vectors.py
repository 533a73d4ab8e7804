"""What Python computes is what tests/vectors say; native code likewise (tests/native)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.make_vectors import FOLDER, MADE


@pytest.mark.parametrize("name", MADE)
def test_vectors(name: str) -> None:
    expected = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    made = json.loads(json.dumps(MADE[name]()))
    _compare(made, expected, name)


def _compare(found: Any, expected: Any, where: str) -> None:
    """Equal, but for logarithms and cosines: theirs may differ in the last place."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            _compare(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for index, pair in enumerate(zip(found, expected, strict=True)):
            _compare(*pair, f"{where}.{index}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=2e-7, abs=0), where
    else:
        assert found == expected, where
