"""Records: one JSON line per run, appended atomically."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from janus_edge.runtime.json_text import plain
from janus_edge.runtime.output import append_output


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Add a line to a file of records, completely or not at all.

    Several programs may do so at once.

    Args:
        path: The file; created if missing.
        record: The record.

    Raises:
        OutputError: The file cannot be written.
    """
    # A name of a file may hold bytes that are no text.
    append_output(path, f"{to_line(record)}\n".encode("utf-8", "backslashreplace"))


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return a file's records, without lines that a crash left incomplete."""
    found = []
    for line in path.read_bytes().splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def program(schema: str) -> dict[str, Any]:
    """Return the beginning of a program's record: its schema, and what was run when."""
    return {
        "schema": schema,
        "command": f"python {shlex.join(sys.argv)}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": checkout_commit(),
    }


def to_line(record: dict[str, Any]) -> str:
    """Return a record as one line of JSON; null for NaN and infinity."""
    return json.dumps(plain(record), ensure_ascii=False, allow_nan=False)


def checkout_commit() -> str | None:
    """Return the commit of the checkout, "+" if it has local changes; None outside a checkout."""
    try:
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*words: str) -> str:
    """Return what a git command prints; raise OSError or CalledProcessError."""
    where = Path(__file__).resolve().parent
    done = subprocess.run(
        ["git", *words], cwd=where, capture_output=True, encoding="utf-8", check=True
    )
    return done.stdout.strip()
