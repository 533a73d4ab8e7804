"""The log of a training run: JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from janus_edge.runtime.files import append_line, atomic_write


def write_line(log: Path, line: dict[str, Any], metrics: dict[str, float], seconds: float) -> None:
    """Append a line to the log.

    Args:
        log: File of the log.
        line: Stage, step, loss and learning rate.
        metrics: More numbers of the step, by name.
        seconds: Time since the start of the stage's training.
    """
    rounded = {name: round(value, 5) for name, value in metrics.items()}
    whole = line | rounded | {"seconds": round(seconds, 1)}
    append_line(log, f"{json.dumps(whole)}\n".encode())


def drop_lines_after(log: Path, steps: Mapping[str, int], others: float = 0) -> None:
    """Delete lines of the log that are later than a saved state.

    Args:
        log: File of the log, which may be missing.
        steps: Steps that are saved, by stage.
        others: Last step that is kept of other stages.
    """
    if log.exists():
        lines = lines_of_log(log)
        kept = [line for line in lines if line["step"] <= steps.get(line["stage"], others)]
        with atomic_write(log) as part:
            part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def lines_of_log(log: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a log, without those that a crash left incomplete."""
    for raw in log.read_bytes().splitlines() if log.exists() else ():
        with suppress(ValueError):
            line = json.loads(raw)
            if isinstance(line, dict) and {"stage", "step"} <= line.keys():
                yield line
