"""Requests of every form, whether the schema allows them or not: no answer is 5xx."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.conftest import serving

PROGRAM = Path(sys.executable).parent / "schemathesis"


@pytest.mark.slow
@pytest.mark.skipif(not PROGRAM.exists(), reason="needs the extra fuzz: pip install '.[fuzz]'")
@pytest.mark.parametrize("seed", range(3))
def test_schemathesis(tmp_path: Path, seed: int) -> None:
    """But that a request may fit the schema and still be refused: a prompt may be too long."""
    with serving("--model", "tiny-janus", "--threads", "1") as server:
        words = ["run", f"{server.url}/openapi.json", "--seed", str(seed), "--max-examples", "100"]
        words += ["--exclude-checks", "positive_data_acceptance", "--request-timeout", "120"]
        done = subprocess.run(
            [PROGRAM, *words], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, done.stdout[-5000:] + server.said.read_text(encoding="utf-8")
        assert server.get("/health").status_code == 200
