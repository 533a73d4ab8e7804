"""Records: lines of JSON, whatever the command line was."""

from __future__ import annotations

from pathlib import Path

from janus_edge.diagnostics.records import append_record, read_records


def test_names_of_files_that_are_no_text(tmp_path: Path) -> None:
    """Keep what was measured, whatever bytes a file's name has."""
    record = {"command": "janus-edge eval --record r\udce9.jsonl", "score": 0.5}
    append_record(tmp_path / "r.jsonl", record)
    append_record(tmp_path / "r.jsonl", {"command": "é"})
    assert read_records(tmp_path / "r.jsonl") == [record, {"command": "é"}]
