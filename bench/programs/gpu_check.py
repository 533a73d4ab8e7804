"""Write what scripts/gpu-check found: its file of results, and a section of the report.

python -m janus_edge.bench.programs.gpu_check DEVICE CHECKS RESULT RECORDS...

CHECKS has four words for each check, each ended by a zero byte: name, exit status, seconds and the
last line that it printed. RECORDS are files of records; those that are not there are left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from janus_edge.diagnostics.records import checkout_commit, read_records
from janus_edge.runtime.files import atomic_write

SCHEMA = "gpu-check/1"
STEP, PEERS = "gpu-step/1", "peers/1"  # schemas of records that the section shows


def results(device: str, checks: Path, records: Sequence[Path]) -> dict[str, Any]:
    """Return what a run found.

    Args:
        device: Name of the GPU.
        checks: The file of checks.
        records: Files of records.
    """
    words = checks.read_text(encoding="utf-8").split("\0")[:-1]
    return {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": checkout_commit(),
        "device": device,
        "checks": [
            {"name": name, "passed": status == "0", "seconds": int(seconds), "last_line": line}
            for name, status, seconds, line in zip(*[iter(words)] * 4, strict=True)
        ],
        "records": [each for path in records if path.exists() for each in read_records(path)],
    }


def section(found: dict[str, Any]) -> str:
    """Return a section of the report.

    Args:
        found: The results.

    Raises:
        ValueError: They are of another program.
    """
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ValueError(f"the results are not of schema {SCHEMA}")
    newest = {each["schema"]: each for each in found["records"]}
    head = f"{found['date'][:10]}, {found['device']}, commit {found['commit'][:7]}."
    checks = [["check", "passed", "seconds", "last line"]] + [
        [each["name"], "yes" if each["passed"] else "NO", str(each["seconds"]), each["last_line"]]
        for each in found["checks"]
    ]
    parts = ["## On a GPU", head, _table(checks)]
    if STEP in newest:
        parts += [
            "A decode step of Janus-Pro-1B's shape in int4, two rows, mid-image, by graph replay:",
            _table(list(_step_rows(newest[STEP]))),
            "An image of the same shape (ours without the VQ decoder):",
            _table(list(_image_rows(newest[STEP], newest.get(PEERS)))),
        ]
    return "\n\n".join(parts) + "\n"


def _step_rows(record: dict[str, Any]) -> Iterator[list[str]]:
    """Yield the table of a step."""
    yield ["kernel", "launches", "us", "MB read", f"of {record['copy_gb_s']} GB/s"]
    steps = (("all", "step"), ("all, one by one", "step_one_by_one"))
    whole = [{"kernel": title, "launches": "", **record[name]} for title, name in steps]
    for row in (*record["kernels"], *whole):
        fraction = f"{row['bandwidth_fraction']:.0%}"
        numbers = f"{row['us']:.1f}", f"{row['mb_read']:.1f}"
        yield [row["kernel"], str(row["launches"]), *numbers, fraction]


def _image_rows(step: dict[str, Any], peers: dict[str, Any] | None) -> Iterator[list[str]]:
    """Yield the table of an image by us and by others."""
    ours = step["codes"]["total_ms"]
    yield ["", "ms an image", "times ours"]
    yield ["janus-edge, our kernels", f"{ours:.0f}", "1.0"]
    for name, row in (peers or {"peers": {}})["peers"].items():
        yield [name, f"{row['total_ms']:.0f}", f"{row['total_ms'] / ours:.1f}"]


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, the first of which is the head, as Markdown."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(
        "| " + " | ".join(each.replace("|", "/") for each in row) + " |" for row in lines
    )


def main(words: Sequence[str]) -> None:
    """Write the results of a run."""
    device, checks, result, *records = words
    found = results(device, Path(checks), [Path(each) for each in records])
    with atomic_write(Path(result)) as part:
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
