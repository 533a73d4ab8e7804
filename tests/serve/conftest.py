"""A server in a process of its own, on a free port."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Server:
    """A running server, and the file of what it says on standard error."""

    process: subprocess.Popen[str]
    url: str
    said: Path

    def get(self, path: str, **given: Any) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=120, **given)

    def post(self, path: str, **given: Any) -> httpx2.Response:
        return httpx2.post(self.url + path, timeout=120, **given)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.get("/metrics").text.splitlines()
        found = [line for line in lines if line.split("{")[0].split()[0] == name]
        return sum(float(line.split()[-1]) for line in found)


@contextmanager
def serving(*words: str | Path, **env: str) -> Iterator[Server]:
    """Yield a server; it is killed if the test has not stopped it."""
    with tempfile.NamedTemporaryFile() as said:  # a pipe that nobody reads would stop it when full
        process = subprocess.Popen(
            [sys.executable, "-m", "janus_edge", "serve", "--port", "0", *map(str, words)],
            env=os.environ | {"OMP_NUM_THREADS": "1"} | env,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            encoding="utf-8",
        )
        with _killed_at_the_end(process):
            yield _answering(process, Path(said.name))


@contextmanager
def _killed_at_the_end(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def _answering(process: subprocess.Popen[str], said: Path) -> Server:
    """Wait until it answers."""
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url.startswith("http://"), said.read_text(encoding="utf-8")
    with httpx2.Client() as client:  # it listens before its first model is open
        assert client.get(f"{url}/health", timeout=60).status_code == 200
    return Server(process, url, said)


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[openai.OpenAI]:
    """OpenAI's client, as it comes."""
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60
    ) as found:
        yield found


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One that serves what ships."""
    with serving("--model", "tiny-janus", "--model", "tiny-flow", "--threads", "1") as found:
        yield found
