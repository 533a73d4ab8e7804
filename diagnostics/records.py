"""Records: one JSON line a run, appended whole."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from janus_edge.runtime.output import append_output


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Add a line to a file of records, all of it or nothing; several programs may do so at once."""
    append_output(path, f"{to_line(record)}\n".encode())


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return a file's records, but for what is no JSON: a line half written when all stopped."""
    found = []
    for line in path.read_bytes().splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def program(schema: str) -> dict[str, Any]:
    """What the record of a program of bench/ begins with: its schema, and what was run when."""
    return {
        "schema": schema,
        "command": f"python {shlex.join(sys.argv)}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": checkout_commit(),
    }


def to_line(record: dict[str, Any]) -> str:
    """A record as one line of JSON."""
    return json.dumps(record, ensure_ascii=False)


def checkout_commit() -> str | None:
    """The commit of the checkout this runs from, None outside one; "+" marks local changes."""
    try:
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*words: str) -> str:
    where = Path(__file__).resolve().parent
    done = subprocess.run(
        ["git", *words], cwd=where, capture_output=True, encoding="utf-8", check=True
    )
    return done.stdout.strip()
