"""Whatever is changed in a bundle, with the right hashes written down: it ends in an error of ours
or in a normal run, within a bound of time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.mutated import REFUSED

ROOT = Path(__file__).resolve().parents[2]
MANY = pytest.param(2000, marks=pytest.mark.slow)


def outcomes(name: str, first: int, count: int, folder: Path, *library: str) -> list[Any]:
    """Of mutations by number; see tests/mutated.py."""
    command = [sys.executable, "-m", "tests.mutated", name, str(first), str(count), str(folder)]
    done = subprocess.run([*command, *library], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == count
    return found


def is_orderly(outcome: str) -> bool:
    return outcome.startswith("ok ") or outcome in REFUSED


@pytest.mark.parametrize("count", [40, MANY])
@pytest.mark.parametrize("name", ["tiny-janus", "tiny-flow"])
def test_an_error_of_ours_or_a_normal_run(name: str, count: int, tmp_path: Path) -> None:
    found = outcomes(name, 0, count, tmp_path)
    assert [each for each in found if not is_orderly(each["python"])] == []
    kinds = {each["python"].split()[0] for each in found}
    assert kinds >= {"ok", "BundleError"}  # else nothing is tested
