"""The server under load: images per minute, what it adds to the library, and a soak.

    python bench/programs/serving.py load BUNDLE --record FILE
    python bench/programs/serving.py added BUNDLE --record FILE
    python bench/programs/serving.py soak BUNDLE --requests 10000 --record FILE

``load`` draws the same images by one client after another and by eight at once; they must be equal.
``added`` compares the time to an answer's first text and of a whole image with the library's,
in turn. ``soak`` sends drawings, questions, malformed bodies and requests that are given up, at
random, and compares every result with the library's.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PilImage

from janus_edge.diagnostics.machine import describe
from janus_edge.diagnostics.records import append_record, program
from janus_edge.runtime.everyday import Model, load

SCHEMA = "serving/1"
DRAW, CHAT = "/v1/images/generations", "/v1/chat/completions"
PROMPTS = ("a red circle", "two blue squares", "a green star", "three yellow circles on white")
QUESTION = "what colour is it?"
MALFORMED = (b"", b"{", b"[1]", b'{"prompt": 1}', b'{"prompt": ""}', b'{"messages": []}', b"\xff")


class Server:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        """Take a running one."""
        self.process, self.port = process, port

    def post(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Return the status and the document of an answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=900)
        try:
            connection.request("POST", path, body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def first_text_s(self, body: bytes) -> float:
        """Return the time to the first text of a streamed answer, s."""
        connection, began = HTTPConnection("127.0.0.1", self.port), time.perf_counter()
        try:
            connection.request("POST", CHAT, body)
            answer, text = connection.getresponse(), ""
            while not text:
                line = answer.readline()
                if line.startswith(b"data: {"):
                    delta = json.loads(line[6:])["choices"][0]["delta"]
                    text = "" if delta.get("role") else delta.get("content", "")
            return time.perf_counter() - began
        finally:
            connection.close()

    def give_up(self, path: str, body: bytes, after_s: float) -> None:
        """Send a request and leave."""
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(head.encode() + body)
            time.sleep(after_s)

    @property
    def memory_mb(self) -> float:
        """Resident memory, MB."""
        with Path(f"/proc/{self.process.pid}/status").open(encoding="utf-8") as file:
            (line,) = [line for line in file if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1e3


@contextmanager
def serving(bundle: str) -> Iterator[Server]:
    """Yield a server of a bundle."""
    words = ["serve", "--model", bundle, "--port", "0", "--queue", "1000", "--timeout", "3600"]
    with subprocess.Popen(
        [sys.executable, "-m", "janus_edge", *words], stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        try:
            yield Server(process, port)
        finally:
            process.terminate()


def drawing(prompt: str, seed: int, **more: Any) -> bytes:
    """Return the body that draws an image."""
    return json.dumps({"prompt": prompt, "seed": seed, **more}).encode()


def question(pixels: np.ndarray, **more: Any) -> bytes:
    """Return the body that asks about an image."""
    file = io.BytesIO()
    PilImage.fromarray(pixels).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    parts = [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": url}}]
    return json.dumps({"messages": [{"role": "user", "content": parts}], **more}).encode()


def pixels_of(document: dict[str, Any]) -> np.ndarray:
    """Return the image of an answer."""
    raw = base64.b64decode(document["data"][0]["b64_json"])
    return np.asarray(PilImage.open(io.BytesIO(raw)))


def measure_load(bundle: str, clients: int) -> dict[str, Any]:
    """Return images per minute of one client and of several at once."""
    with serving(bundle) as server:

        def draw(seed: int) -> np.ndarray:
            status, document = server.post(DRAW, drawing(PROMPTS[seed % 4], seed))
            assert status == 200, document
            return pixels_of(document)

        draw(0)  # opens the engines
        began = time.perf_counter()
        alone = [draw(seed) for seed in range(clients)]
        one = time.perf_counter() - began
        began = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            together = list(pool.map(draw, range(clients)))
        several = time.perf_counter() - began
        return {
            "clients": clients,
            "images_per_minute": {"one": 60 * clients / one, "together": 60 * clients / several},
            "ratio": one / several,
            "equal": sum(map(np.array_equal, alone, together)),
            "memory_mb": server.memory_mb,
        }


def measure_added(bundle: str, rounds: int) -> dict[str, Any]:
    """Return what the server adds to the library's times, ms."""
    texts, images = [], []
    with load(bundle) as model, serving(bundle) as server:
        shown = model.draw(PROMPTS[0], seed=1).pixels
        for number in range(rounds + 2):
            began = time.perf_counter()
            with model.ask_stream(shown, QUESTION) as stream:
                next(stream)
                own_text = time.perf_counter() - began
            text = server.first_text_s(question(shown, stream=True))
            began = time.perf_counter()
            model.draw(PROMPTS[0], seed=number)
            own_image = time.perf_counter() - began
            began = time.perf_counter()
            server.post(DRAW, drawing(PROMPTS[0], number))
            image = time.perf_counter() - began
            if number >= 2:  # the first ones open engines
                texts.append((own_text * 1e3, text * 1e3))
                images.append((own_image * 1e3, image * 1e3))
    found = {}
    for name, pairs in (("first_text_ms", texts), ("image_ms", images)):
        own, served = (statistics.median(each) for each in zip(*pairs, strict=True))
        added = statistics.median(b - a for a, b in pairs)
        found[name] = {"library": own, "server": served, "added": added}
    return {"rounds": rounds, **found}


class Soak:
    """Requests of many kinds, and what became of them."""

    def __init__(self, server: Server, model: Model) -> None:
        """Compute what is right."""
        self.server, self.counts, self._lock = server, Counter[str](), threading.Lock()
        self._drawn = {seed: model.draw(PROMPTS[seed % 4], seed=seed).pixels for seed in range(32)}
        self._said = {seed: model.ask(each, QUESTION) for seed, each in self._drawn.items()}

    def _draw(self, rng: random.Random) -> str:
        seed = rng.randrange(32)
        status, document = self.server.post(DRAW, drawing(PROMPTS[seed % 4], seed))
        if status != 200:
            return f"status {status}"
        return "drawn" if np.array_equal(pixels_of(document), self._drawn[seed]) else "wrong"

    def _ask(self, rng: random.Random) -> str:
        seed = rng.randrange(32)
        status, document = self.server.post(CHAT, question(self._drawn[seed]))
        if status != 200:
            return f"status {status}"
        text = document["choices"][0]["message"]["content"]
        return "answered" if text == self._said[seed] else "wrong"

    def _malformed(self, rng: random.Random) -> str:
        path = rng.choice((DRAW, CHAT))
        status, document = self.server.post(path, rng.choice(MALFORMED))
        is_right = status == 400 and document["error"]["message"]
        return "refused" if is_right else f"status {status}"

    def _leave(self, rng: random.Random) -> str:
        seed = rng.randrange(32)
        stream = rng.random() < 0.5
        bodies = {
            DRAW: drawing(PROMPTS[seed % 4], seed, stream=stream, n=rng.randrange(1, 5)),
            CHAT: question(self._drawn[seed], stream=stream),
        }
        path = rng.choice((DRAW, CHAT))
        body = bodies[path]
        cut = rng.randrange(1, len(body)) if rng.random() < 0.2 else len(body)
        self.server.give_up(path, body[:cut], rng.random() * 0.5)
        return "left"

    def one(self, number: int) -> None:
        """Send one request, of a kind that its number decides."""
        rng = random.Random(number)
        kinds: list[Callable[[random.Random], str]] = [self._draw, self._ask]
        kinds += [self._malformed, self._leave]
        try:
            (kind,) = rng.choices(kinds, (4, 3, 2, 1))
            outcome = kind(rng)
        except (OSError, HTTPException, ValueError) as error:
            outcome = f"lost: {type(error).__name__}"
        with self._lock:
            self.counts[outcome] += 1


def measure_soak(bundle: str, requests: int, clients: int) -> dict[str, Any]:
    """Return what became of many requests, and the server's memory."""
    with load(bundle) as model, serving(bundle) as server:
        soak, memory, began = Soak(server, model), [], time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            for part in range(10):
                span = range(part * requests // 10, (part + 1) * requests // 10)
                list(pool.map(soak.one, span))
                memory.append(round(server.memory_mb, 1))
                print(f"{span.stop} requests: {dict(soak.counts)}, {memory[-1]} MB", flush=True)
        return {
            "requests": requests,
            "clients": clients,
            "seconds": round(time.perf_counter() - began, 1),
            "outcomes": dict(soak.counts),
            "memory_mb": memory,
        }


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("load", "added", "soak"))
    parser.add_argument("bundle")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--record", type=Path)
    words = parser.parse_args()
    measures: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "load": lambda words: measure_load(words.bundle, words.clients),
        "added": lambda words: measure_added(words.bundle, words.rounds),
        "soak": lambda words: measure_soak(words.bundle, words.requests, words.clients),
    }
    found = measures[words.what](words)
    print(json.dumps(found, indent=1))
    if words.record:
        about = {"measured": words.what, "bundle": Path(words.bundle).name}
        append_record(words.record, {**program(SCHEMA), **describe(), **about, **found})


if __name__ == "__main__":
    main()
