"""The real cuda-bindings and our cubins' launches without a GPU: on a ``libcuda.so.1`` built here.

It runs ``test_gpu_driver.py``, so what is tested on a GPU is itself tested everywhere, and a whole
decode loop (``stub_session.py``). It shows that cubins compile and how they are launched; their
code runs on a GPU only.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.fake_machine import (
    PROMPTS,
    Machine,
    drawn,
    export_with_kernels,
    results,
    small_checkpoint,
)
from tests.runtime.stub_library import run_python, with_stub

HERE = Path(__file__).resolve().parent


pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("g++"), reason="needs g++"
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return with_stub(tmp_path_factory.mktemp("stub"))


def test_the_driver_tests_pass_on_a_stub(environment: dict[str, str]) -> None:
    tests = str(HERE / "test_gpu_driver.py")
    said = run_python(environment, "pytest", "-q", "-p", "no:cacheprovider", tests)
    assert re.search(r"^\d+ passed in", said, re.M), said[-500:]  # and none skipped


def test_the_decode_loop_runs_through_the_bindings(
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Decoder, heads, sampler and look-up, captured and replayed: the codes of the fake driver."""
    bundle = export_with_kernels(small_checkpoint(), tmp_path / "b")
    said = run_python(
        environment, "tests.runtime.stub_session", str(bundle.folder), str(tmp_path / "c")
    )
    expected = {"qkv", "attend", "attend_many", "write_slots", "merge", "output", "gate_up"}
    expected |= {
        "down",
        "norm",
        "last_norm",
        "head_hidden",
        "head_logits",
        "sample",
        "look_up",
        "repack4",
    }
    assert {f"{name}_kernel" for name in expected | {"repack8"}} <= set(said.split())
    first, second = np.load(tmp_path / "c.npy")
    assert np.array_equal(first, second)
    fake = Machine(monkeypatch, bundle)
    assert np.array_equal(first, results(drawn(fake.session(), PROMPTS)))
