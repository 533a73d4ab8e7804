"""A server in a process of its own, on a free port."""

from __future__ import annotations

import os
import subprocess
import sys
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
    """A running server."""

    process: subprocess.Popen[str]
    url: str

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
    process = subprocess.Popen(
        [sys.executable, "-m", "janus_edge", "serve", "--port", "0", *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), process.stderr.read()
        with httpx2.Client() as client:  # it listens before its first model is open
            assert client.get(f"{url}/health", timeout=60).status_code == 200
        yield Server(process, url)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[openai.OpenAI]:
    """OpenAI's client, as it comes."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One that serves what ships."""
    with serving("--model", "tiny-janus", "--model", "tiny-flow", "--threads", "1") as found:
        yield found
