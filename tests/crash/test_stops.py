"""Every writer, stopped at every file operation: old or new, never neither, and the next recovers.

The shim (shim.c) sees what an audit hook of Python does not: writes of torch, ONNX Runtime and the
tokenizers, ``renameat2`` by ctypes, fsync. The long forms are marked slow: ``pytest -m slow``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("gcc") is None, reason="needs Linux and gcc"
)


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that stops file operations."""
    made = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("shim.c")
    words = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", source, "-o", made]
    subprocess.run([*map(str, words), "-ldl"], check=True)
    return made


@pytest.fixture(scope="session")
def runner(shim: Path, bundle_dir: Path, checkpoint_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """A warm process that has the shim."""
    given = {"CRASH_BUNDLE": str(bundle_dir), "CRASH_CHECKPOINT": str(checkpoint_dir)}
    given |= {"LD_PRELOAD": str(shim), "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.crash.runner"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | given,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def stop(runner: subprocess.Popen[str], tmp_path: Path):
    """Have a writer stopped; returns what was found, which must be nothing wrong."""

    def stop(how: str, writer: str, step: int = 1) -> dict[str, Any]:
        assert runner.stdin is not None and runner.stdout is not None
        print(json.dumps([how, writer, str(tmp_path / "t"), step]), file=runner.stdin, flush=True)
        line = next(line for line in runner.stdout if line.startswith('{"count"'))
        found: dict[str, Any] = json.loads(line)
        assert not found["wrong"], "\n".join(found["wrong"][:5])
        return found

    return stop


# Every so many-th operation of what takes longer than seconds; all of them: pytest -m slow.
STEPS = {"states": 7, "checkpoint": 9, "pull": 3}
FAILING_STEPS = STEPS | {"bundle": 7, "draw": 2}
WRITERS = ("image", "record", "shards", "index", "states", "checkpoint", "remove", "notes", "pull")


@pytest.mark.parametrize("writer", WRITERS)
def test_killed_at_an_operation(stop, writer: str) -> None:
    found = stop("kill", writer, STEPS.get(writer, 1))
    assert found["count"] >= 3 and "new" in found["states"]


@pytest.mark.parametrize("writer", ["new-bundle", "bundle", "bundle-by-two-renames", "export"])
def test_a_bundle_at_every_operation(stop, writer: str) -> None:
    found = stop("look", writer)
    before = "none" if writer == "new-bundle" else "old"
    between = {"none"} if writer == "bundle-by-two-renames" else set()
    assert set(found["states"]) == {before, "new"} | between
    assert set(found["swept"]) == {before, "new"}


@pytest.mark.parametrize(("writer", "step"), [("bundle", 10), ("bundle-by-two-renames", 13)])
def test_an_export_that_is_killed(stop, writer: str, step: int) -> None:
    stop("kill", writer, step)


@pytest.mark.parametrize("writer", [*WRITERS, "draw", "bundle"])
def test_an_operation_that_fails(stop, writer: str) -> None:
    stop("fail", writer, FAILING_STEPS.get(writer, 1))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "fail"])
@pytest.mark.parametrize("writer", [*STEPS, "draw", "bundle", "bundle-by-two-renames", "export"])
def test_every_operation_of_what_takes_long(stop, how: str, writer: str) -> None:
    stop(how, writer)
