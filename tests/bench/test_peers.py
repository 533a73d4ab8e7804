"""Peers: which there are, and what a run of several comes to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from janus_edge.bench.process import Run
from janus_edge.bench.programs.peers import setup
from janus_edge.bench.programs.peers.__main__ import measure, summary
from janus_edge.bench.programs.peers.report import alone, newest, side_by_side
from janus_edge.bench.programs.peers.setup import Setup, codes, peers
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.errors import OptionError

OURS = {"janus-edge": "ours"}


def make_setup(bundle: str | None, made: Path) -> Setup:
    return Setup(made=made, bundle=bundle, num_threads=1, prompt_tokens=12, max_tokens=3)


def test_a_peer_is_a_file_and_one_that_cannot_be_had_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fast.py").write_text(
        "PEERS = {'draw': {'fast': print}, 'ask': {'slow': print}}", encoding="utf-8"
    )
    (tmp_path / "absent.py").write_text("import no_such_module", encoding="utf-8")
    monkeypatch.setattr(setup.folder, "__path__", [str(tmp_path), *setup.folder.__path__])
    found, missing = peers("draw")
    assert {"fast", "janus-edge", "transformers bf16", "transformers fp32"} <= set(found)
    assert "slow" not in found and found["fast"] == "fast"
    assert missing["absent"] == "No module named 'no_such_module'"


def test_the_runs_of_our_own(bundle_dir: Path, tmp_path: Path) -> None:
    rows = measure(OURS, "draw", make_setup(str(bundle_dir), tmp_path), 2, patience=60)
    (row,) = rows.values()
    assert open_bundle(bundle_dir).manifest.name in row["about"] and row["runs"] == 2
    assert 0 < row["ttft_ms"] < row["total_ms"] and row["peak_mb"] > 10
    (once,) = measure(OURS, "ask", make_setup(str(bundle_dir), tmp_path), 2, patience=0).values()
    assert once["runs"] == 1


def test_the_command_as_it_is_called(bundle_dir: Path, tmp_path: Path) -> None:
    record = tmp_path / "peers.jsonl"
    words = [str(tmp_path / "made"), "draw", "--peers", "janus-edge", "--runs", "1"]
    words += ["--bundle", str(bundle_dir), "--record", str(record)]
    command = [sys.executable, "-m", "janus_edge.bench.programs.peers", *words]
    subprocess.run(command, check=True, capture_output=True)
    assert json.loads(record.read_text(encoding="utf-8"))["peers"]["janus-edge"]["total_ms"] > 0


def test_what_cannot_be_measured_is_one_line(bundle_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="name one with --bundle"):
        measure(OURS, "draw", make_setup(None, tmp_path), 1, patience=60)
    with pytest.raises(OptionError, match="janus-edge has no work flow; it has ask, codes, draw"):
        measure(OURS, "flow", make_setup(str(bundle_dir), tmp_path), 1, patience=60)


def test_the_middle_of_an_image() -> None:
    slow_middle = Run(total_ms=30, step_ends_ms=(1, 2, 3, 4, 5, 15, 16, 17, 18, 19, 20))
    found = summary([slow_middle])
    assert (found["ttft_ms"], found["itl_ms"], found["itl_mid_ms"]) == (1, 1, 5.5)


def test_the_same_codes_for_everyone(tmp_path: Path) -> None:
    prompt, image = codes(make_setup(None, tmp_path))
    assert (len(prompt), len(image)) == (12, 576)
    assert (codes(make_setup(None, tmp_path))[1] == image).all()


def test_the_report_compares_with_ours_and_takes_the_newest() -> None:
    row = {"about": "small, int4", "runs": 2, "peak_mb": 10, "total_ms": 20.0, "itl_ms": 2.0}
    made = {
        "work": "draw",
        "date": "2026-01-01T00:00:00",
        "machine": "a machine",
        "threads": 1,
        "read_gb_s": 1.0,
        "load": [0.1],
        "commit": "0" * 40,
        "peers": {"janus-edge": row, "other": row | {"about": "its version", "total_ms": 30.0}},
    }
    newer = made | {"date": "2026-02-01T00:00:00"}
    (found,) = newest([made, newer], lambda record: record["work"])
    text = side_by_side(found)
    assert "## A whole image, small" in text and "2026-02-01" in text
    assert "| other | 30 | 2 | 1.50 | 1.00 | 10 | 2 |" in text and "- other: its version" in text
    bundle = {"name": "b", "weights": "int4", "prompt_tokens": 9, "first_ms": 1.4, "peak_mb": 7}
    ours = bundle | {"decoder": "native"}  # as schema bench/1 has it
    draw = {"image_ms": {"p50": 12.5}, "itl_ms": {"p50": 1.25}, "bandwidth_fraction": 0.876}
    when = {"date": "2026-01-03T00:00:00", "machine": "a machine"}
    own = [when | {"settings": {"batch": 2}, "bundles": [ours | {"draw": draw}, bundle]}]
    assert "| 2026-01-03 | b | int4 | cpu_kernels | 2 | 9 | 12.5 | 1.25 | 88% | 1 | 7 |" in alone(
        own
    )


def test_a_record_of_another_program_is_one_line(tmp_path: Path) -> None:
    record = tmp_path / "r.jsonl"
    record.write_text('{"schema": "layers/1"}\n', encoding="utf-8")
    words = [str(record), str(record), str(tmp_path / "R.md"), str(tmp_path / "r.png")]
    command = [sys.executable, "-m", "janus_edge.bench.programs.peers.report", *words]
    found = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert (
        found.returncode == 1 and "r.jsonl: not all records are of schema peers/1" in found.stderr
    )
    assert len(found.stderr.splitlines()) == 1 and not (tmp_path / "R.md").exists()
