"""Records: one JSON line a run, appended whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from janus_edge.runtime.files import whole


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Add a line to a file of records; the file is replaced in one step, never half written."""
    before = path.read_text() if path.exists() else ""
    with whole(path) as part:
        part.write_text(before + json.dumps(record) + "\n")
