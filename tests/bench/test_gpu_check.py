"""The results of scripts/gpu-check, and what the report says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from janus_edge.bench.programs.gpu_check import main, section
from janus_edge.diagnostics.records import append_record

STEP: dict[str, Any] = {
    "schema": "gpu-step/1",
    "copy_gb_s": 4000.0,
    "step": {"us": 900.0, "mb_read": 720.0, "bandwidth_fraction": 0.2},
    "step_one_by_one": {"us": 1100.0, "mb_read": 720.0, "bandwidth_fraction": 0.16},
    "kernels": [
        {"kernel": "qkv", "launches": 24, "us": 100.5, "mb_read": 151.0, "bandwidth_fraction": 0.37}
    ],
    "codes": {"codes": 576, "total_ms": 520.0, "step_ms": 0.9},
}
PEERS = {"schema": "peers/1", "peers": {"transformers bf16": {"total_ms": 13000.0}}}


@pytest.fixture
def result(tmp_path: Path) -> Path:
    checks = ["memcheck", "0", "12", "3 passed", "racecheck", "9", "4", "1 | failed"]
    (tmp_path / "checks").write_text("".join(f"{each}\0" for each in checks), encoding="utf-8")
    for record in (STEP, PEERS):
        append_record(tmp_path / f"{record['schema'][:5]}.jsonl", record)
    names = "checks", "result.json", "gpu-s.jsonl", "peers.jsonl", "absent.jsonl"
    main(["NVIDIA H200, sm_90", *(str(tmp_path / name) for name in names)])
    return tmp_path / "result.json"


def test_the_report_says_what_was_found(result: Path) -> None:
    found = json.loads(result.read_text(encoding="utf-8"))
    assert [each["passed"] for each in found["checks"]] == [True, False]
    said = section(found)
    assert "NVIDIA H200, sm_90, commit" in said
    assert "| racecheck | NO | 4 | 1 / failed |" in said
    assert "| qkv | 24 | 100.5 | 151.0 | 37% |" in said and "| all |  | 900.0 |" in said
    assert "| all, one by one |  | 1100.0 |" in said
    assert "| transformers bf16 | 13000 | 25.0 |" in said


def test_a_run_without_times_has_its_checks_only(result: Path) -> None:
    found = json.loads(result.read_text(encoding="utf-8"))
    assert "decode step" not in section({**found, "records": []})
    with pytest.raises(ValueError, match="not of schema gpu-check/1"):
        section({"date": "2026-11-29"})
