"""A batch on a Ray cluster of two workers, one of which is killed in the middle."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.batch.test_batch import PROMPTS, content, results, write
from tests.conftest import Cli

pytestmark = pytest.mark.slow
WORKER = re.compile(rb"^ray::MapWorker")


def workers() -> list[int]:
    """The processes of workers that have begun to work."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if WORKER.match((folder / "cmdline").read_bytes()):
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


def test_a_worker_is_killed(cli: Cli, tmp_path: Path) -> None:
    """The results are the bytes of a batch on one machine."""
    pytest.importorskip("ray")
    items = [{"prompt": PROMPTS[i % 4], "seed": i} for i in range(320)]
    items[5] = {"question": "what is this?", "images": ["gone.png"]}
    source = write(tmp_path, items)
    assert cli("batch", source, tmp_path / "whole", "--model", "tiny-janus").returncode == 1
    words = ["batch", str(source), str(tmp_path / "out"), "--model", "tiny-janus"]
    words += ["--ray", "local", "--workers", "2", "--threads", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "janus_edge", *words], stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        lines, ends = tmp_path / "out/results.jsonl", time.monotonic() + 300
        while not lines.exists() and time.monotonic() < ends and process.poll() is None:
            time.sleep(0.05)
        killed = workers()
        assert len(killed) == 2
        os.kill(killed[0], signal.SIGKILL)
        assert len(results(tmp_path / "out")) < 320
        _, said = process.communicate()
    assert process.returncode == 1 and "1 of 320 items failed" in said
    assert content(tmp_path / "out") == content(tmp_path / "whole")
