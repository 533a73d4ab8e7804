from __future__ import annotations

import json
from pathlib import Path

import pytest


def test_a_table_for_people(cli, bundle_dir: Path) -> None:
    done = cli("bench", bundle_dir, "--runs", "2", "--threads", "1", "--max-tokens", "4")
    assert done.returncode == 0, done.stderr
    for words in ("governor", "load", "GB/s", "2 runs after 1", "peak_mb", "draw: TTFT"):
        assert words in done.stdout
    assert "ask: ITL" in done.stdout and " ratio" not in done.stdout


def test_a_line_for_programs(cli, bundle_dir: Path, flow_bundle_dir: Path, tmp_path: Path) -> None:
    record = tmp_path / "bench.jsonl"
    words = ["--workload", "draw", "--runs", "2", "--warmups", "0", "--threads", "1", "--json"]
    done = cli("bench", "--compare", bundle_dir, flow_bundle_dir, *words, "--record", record)
    assert done.returncode == 0, done.stderr
    assert record.read_text(encoding="utf-8") == done.stdout
    result = json.loads(done.stdout)
    janus, flow = result["bundles"]
    assert (janus["family"], flow["family"]) == ("janus", "janusflow")
    assert janus["draw"]["bandwidth_fraction"] > 0 and "bandwidth_fraction" not in flow["draw"]
    assert "ask" not in janus and result["settings"]["num_threads"] == 1
    assert janus["first_ms"] > janus["open_ms"] > 0 and janus["peak_mb"] > 10


def test_two_bundles_have_a_ratio(cli, bundle_dir: Path) -> None:
    words = ["--workload", "ask", "--runs", "1", "--warmups", "0", "--threads", "1"]
    done = cli("bench", "--compare", bundle_dir, bundle_dir, *words)
    assert "ratio" in done.stdout and "ask: TTFT" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing"], "nothing: no such bundle"),
        (["--steps", "3"], "num_steps means nothing to"),
        (["--prompt-length", "500"], "make it shorter"),
        (["--runs", "0"], "--runs"),
        (["--compare", "a", "b"], "give either a bundle or --compare"),
        (["--record", "missing/folder/x.jsonl"], "missing/folder"),
    ],
)
def test_bad_input_is_one_line(cli, bundle_dir: Path, words: list[str], says: str) -> None:
    given = words if words == ["nothing"] else [bundle_dir, *words]
    more = ["--workload", "draw", "--warmups", "0", "--threads", "1"]
    assert says in cli.fails(
        "bench", *given, *more, *([] if "--runs" in words else ["--runs", "1"])
    )
