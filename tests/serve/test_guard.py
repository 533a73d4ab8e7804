"""Who may use the server, what it refuses, and how it stops."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from janus_edge.runtime.bundle import SHIPPED
from tests.serve.conftest import Server, serving

DRAW = "/v1/images/generations"
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8000"}, 403),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": ""}, 403),
        ({"Host": "[::"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[::1"}, 403),
    ],
)
def test_other_pages(server: Server, headers: dict[str, str], status: int) -> None:
    found = server.get("/v1/models", headers=headers)
    assert found.status_code == status
    if status == 403:
        assert found.json()["error"]["type"] == "permission_error"


def test_its_own_page(server: Server) -> None:
    assert server.get("/v1/models", headers={"Origin": server.url}).status_code == 200
    page = server.get("/")
    assert (
        page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    )


def test_origins_that_are_allowed() -> None:
    origin = "https://friend.example"
    with serving("--model", "tiny-janus", "--allow-origin", origin) as server:
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        found = httpx2.options(server.url + DRAW, headers=asked)
        assert found.headers["access-control-allow-origin"] == origin
        found = server.get("/v1/models", headers={"Origin": origin})
        assert found.headers["access-control-allow-origin"] == origin


def test_a_token() -> None:
    with serving("--model", "tiny-janus", JANUS_EDGE_TOKEN="sesame") as server:
        assert server.get("/health").status_code == server.get("/").status_code == 200
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "sesame2"}):
            found = server.get("/v1/models", headers=headers)
            assert found.status_code == 401 and found.json()["error"]["code"] == "invalid_api_key"
        good = {"Authorization": "Bearer sesame"}
        assert server.get("/v1/models", headers=good).status_code == 200


def test_listening_elsewhere_needs_a_token() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "janus_edge", "serve", "--host", "0.0.0.0", "--port", "0"],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.returncode == 1 and "set JANUS_EDGE_TOKEN" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles of one name, and a damaged one."""
    folder = tmp_path_factory.mktemp("bundles")
    for name in ("a/m", "b/m", "bad"):
        shutil.copytree(SHIPPED / "tiny-janus", folder / name)
    with (folder / "bad/decoder.onnx").open("ab") as file:
        file.write(b"x")
    return folder


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--port", "{port}"], "in use"),
        (["--host", "127.0.0.1.5"], "JANUS_EDGE_TOKEN"),
        (["--host", "x" * 100 + ".localhost"], "JANUS_EDGE_TOKEN|give another"),
        (["--timeout", "inf"], "timeout is inf"),
        (["--model", "nothing"], "no such bundle"),
        (["--model", "{folder}/a/m", "--model", "{folder}/b/m"], "have one name; rename one"),
        (["--port", "0", "--model", "{folder}/bad"], "bad/decoder.onnx: "),
    ],
)
def test_words_that_are_wrong(server: Server, bundles: Path, words: list[str], says: str) -> None:
    given = {"port": server.url.rpartition(":")[2], "folder": bundles}
    done = subprocess.run(
        [sys.executable, "-m", "janus_edge", "serve", *(w.format(**given) for w in words)],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.returncode == 1 and re.search(says, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"prompt": 1}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a star", "temperature": NaN}',
        b'{"prompt": "a star", "temperature": 1e999}',
        b'{"prompt": "a star", "seed": 1e3}',
        b'{"prompt": "a star", "seed": 99999999999999999999999}',
        b'{"prompt": "a star", "model": "../../etc"}',
        b"\xff\xfe",
    ],
)
@pytest.mark.parametrize("path", [DRAW, CHAT])
def test_bodies_that_are_wrong(server: Server, path: str, body: bytes) -> None:
    """A client's fault is never a 5xx."""
    found = server.post(path, content=body)
    assert found.status_code in ((200, 400) if b"ud800" in body else (400, 404)), found.text
    if found.status_code != 200:
        assert found.json()["error"]["message"]


def test_paths_and_methods_that_are_wrong(server: Server) -> None:
    assert server.get("/v1/nothing").json()["error"]["message"].endswith("no such path")
    assert server.get(DRAW).status_code == 405
    assert server.get("/v1/models/none").json()["error"]["code"] == "model_not_found"


def test_a_body_that_is_too_large(server: Server) -> None:
    large = json.dumps({"prompt": "x" * 33_000_000}).encode()
    assert server.post(DRAW, content=large).status_code == 413
    pieces = (large[start : start + 2**20] for start in range(0, len(large), 2**20))
    assert server.post(DRAW, content=pieces).status_code == 413  # without a length


def test_a_full_queue() -> None:
    with serving("--model", "tiny-janus", "--queue", "1", "--threads", "1") as server:
        body = {"prompt": "a star", "n": 10, "seed": 1}

        def draw(_: int) -> httpx2.Response:
            return server.post(DRAW, json=body)

        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(draw, range(6)))
        statuses = [each.status_code for each in found]
        assert set(statuses) == {200, 429}
        full = found[statuses.index(429)]
        assert full.headers["retry-after"] and full.json()["error"]["type"] == "rate_limit_error"


def test_a_request_that_takes_too_long() -> None:
    with serving("--model", "tiny-flow", "--timeout", "1", "--threads", "1") as server:
        words = {"prompt": "a star", "num_steps": 1000}
        found = server.post(DRAW, json=words)
        assert found.status_code == 504 and found.json()["error"]["code"] == "timeout"
        _until(lambda: server.metric("janus_edge_running") == 0)


def _until(holds, seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["tiny-janus", "tiny-flow"])
def test_a_client_that_leaves_frees_its_rows(server: Server, model: str, stream: bool) -> None:
    """And what others draw meanwhile is whole."""
    host, port = server.url.removeprefix("http://").split(":")
    words: dict[str, object] = {"prompt": "a star", "model": model, "n": 10, "stream": stream}
    words |= {"num_steps": 1000} if model == "tiny-flow" else {}
    raw = json.dumps(words).encode()
    head = f"POST {DRAW} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(raw)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head.encode() + raw)
        _until(lambda: server.metric("janus_edge_running") > 0)
    _until(lambda: server.metric("janus_edge_running") == 0)
    assert server.metric("janus_edge_waiting") == 0
    found = server.post(DRAW, json={"prompt": "a star", "seed": 1})
    assert found.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("words", [{"prompt": ""}, {"prompt": "x " * 400}, {"model": "nothing"}])
def test_a_stream_is_refused_by_its_status(
    server: Server, words: dict[str, str], *, stream: bool
) -> None:
    """OpenAI's clients retry by status."""
    before = server.metric("janus_edge_requests_total")
    found = server.post(DRAW, json={"prompt": "a star", "stream": stream} | words)
    assert found.status_code == (404 if "model" in words else 400)
    assert found.json()["error"]["type"] == "invalid_request_error"
    assert server.metric("janus_edge_requests_total") > before


def test_more_images_than_the_model_can_see(server: Server) -> None:
    """Refused before the first is decoded."""
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = {"model": "tiny-janus", "messages": [{"role": "user", "content": [part] * 99}]}
    found = server.post(CHAT, json=body)
    assert found.status_code == 400 and "99 images are " in found.text and "fewer" in found.text


class _Files(http.server.BaseHTTPRequestHandler):
    content = b""

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/image.png")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while self.path == "/endless":
                self.wfile.write(b"x")
                time.sleep(0.1)
            self.wfile.write(self.content)

    def log_message(self, *words: object) -> None:
        pass


@contextlib.contextmanager
def _files() -> Iterator[str]:
    files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    files.daemon_threads, files.block_on_close = True, False
    threading.Thread(target=files.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{files.server_port}"
    finally:
        files.shutdown()
        files.server_close()


def test_a_host_that_sends_slowly() -> None:
    """It holds no other request, no longer than a request may take, and not the server's end."""
    words = ["--model", "tiny-janus", "--allow-images-from", "127.0.0.1", "--threads", "1"]
    with (
        _files() as place,
        ThreadPoolExecutor(20) as pool,
        serving(*words, "--timeout", "3", "--grace", "0") as server,
    ):
        part = {"type": "image_url", "image_url": {"url": f"{place}/endless"}}
        slow = {"messages": [{"role": "user", "content": [part]}]}
        going = [pool.submit(server.post, CHAT, json=slow) for _ in range(18)]
        began = time.monotonic()
        assert server.post(DRAW, json={"prompt": "a star"}).status_code == 200
        assert time.monotonic() - began < 2.5  # it was not behind them
        statuses = [each.result().status_code for each in going]
        assert sorted(set(statuses)) == [429, 504] and statuses.count(429) == 2
        last = pool.submit(server.post, CHAT, json=slow)
        _until(lambda: server.metric("janus_edge_requests_total") >= 19)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert last.result().json()["error"]["code"] == "stopping"
        assert server.process.wait(60) == 0
        assert "Traceback" not in server.said.read_text(encoding="utf-8")


def test_images_of_hosts_that_are_allowed() -> None:
    _Files.content = (Path(__file__).parents[2] / "docs/sheet.png").read_bytes()
    words = ["--model", "tiny-janus", "--allow-images-from", "127.0.0.1"]
    with _files() as place, serving(*words) as server:

        def ask(path: str) -> httpx2.Response:
            url = f"{place}{path}"
            parts = [
                {"type": "text", "text": "what is this?"},
                {"type": "image_url", "image_url": {"url": url}},
            ]
            body = {"messages": [{"role": "user", "content": parts}]}
            return server.post(CHAT, json=body)

        assert ask("/image.png").status_code == 200
        moved = ask("/moved")
        assert moved.status_code == 400 and "did not send it" in moved.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_runs(number: int) -> None:
    """The request that runs ends well; the process ends with 0."""
    with serving("--model", "tiny-flow", "--threads", "1") as server:
        with ThreadPoolExecutor(1) as pool:
            words = {"prompt": "a star", "num_steps": 100}
            going = pool.submit(lambda: server.post(DRAW, json=words))
            _until(lambda: server.metric("janus_edge_running") > 0)
            server.process.send_signal(number)
            assert going.result().status_code == 200
        assert server.process.wait(60) == 0


def test_a_signal_says_what_was_lost() -> None:
    with serving("--model", "tiny-flow", "--grace", "1", "--threads", "1") as server:
        with ThreadPoolExecutor(1) as pool:
            words = {"prompt": "a star", "num_steps": 1000, "n": 10}
            going = pool.submit(lambda: server.post(DRAW, json=words))
            _until(lambda: server.metric("janus_edge_running") > 0)
            server.process.send_signal(signal.SIGTERM)
            assert going.result().json()["error"]["code"] == "stopping"
        assert server.process.wait(60) == 0
        said = server.said.read_text(encoding="utf-8").splitlines()
        assert said[1:] == [
            "stopping; running requests (1) have 1 s; a second Ctrl-C ends them at once",
            "stopped; requests that were not finished: 1",
        ]
