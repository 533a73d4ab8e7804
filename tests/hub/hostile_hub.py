"""A hub that misbehaves in one of many named ways, for tests; it listens on the loopback only.

Each row of ``hostile_cases.CASES`` is one misbehaviour: where it happens (the listing, a small
file, a large one, what the listing or a file says), and how a pull must end: "" for success, else
words of its error.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c0" * 20
NAME = "tests/hostile"
LARGE = "model.safetensors"
VICTIM = "../../../victim.txt"  # from a snapshot, a blob or a lock to outside the cache
PIECE = bytes(2**14)


@dataclass
class State:
    """What the hub serves, how it misbehaves, and what it was asked."""

    files: dict[str, bytes]
    case: Case
    url: str = ""
    other_url: str = ""  # another origin: large files are there, as on the real hub
    asked: list[tuple[int, str, dict[str, str]]] = field(default_factory=list)
    num_large: int = 0

    def listing(self) -> dict[str, Any]:
        """What a well-behaved hub lists."""
        siblings = []
        for name, content in self.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content)}
            entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            if name == LARGE:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
            siblings.append(entry)
        return {"id": NAME, "sha": COMMIT, "siblings": siblings}


class Handler(BaseHTTPRequestHandler):
    """Answers well, but for the part that the case names."""

    state: State

    def do_GET(self) -> None:
        state, path = self.state, self.path.partition("?")[0]
        state.asked.append((self.server.server_address[1], path, dict(self.headers)))
        part = "listing" if path.startswith("/api/") else "large" if "/cdn/" in path else "file"
        state.num_large += part == "large"
        name = path.rsplit("/", 1)[-1]
        with suppress(ConnectionError):
            if part == state.case.part and self._goes_wrong(name):
                state.case.act(self, name)
            else:
                self.well(name)

    def _goes_wrong(self, name: str) -> bool:
        return self.state.case.part != "file" or name == self.state.case.file

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    @property
    def start(self) -> int:
        """Where the asked range begins."""
        return int(self.headers.get("Range", "bytes=0-")[6:-1])

    def well(self, name: str) -> None:
        """Answer as a hub should."""
        state = self.state
        if self.path.startswith("/api/"):
            listing = state.listing()
            if state.case.part == "listed":
                listing = state.case.act(listing) or listing
            return self.send(json.dumps(listing).encode())
        if name == LARGE and "/resolve/" in self.path:
            return self.send(b"", 302, {"Location": f"{state.other_url}/cdn/{name}"})
        if name not in state.files:
            return self.send(b"", 404)
        content, start = state.files[name], self.start
        if not start:
            return self.send(content)
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self.send(content[start:], 206, {"Content-Range": span})

    def send(
        self,
        body: bytes,
        status: int = 200,
        headers: dict[str, str] | None = None,
        *,
        length: int | None = None,
    ) -> None:
        """Send an answer. length: what it claims to have, -1: it claims nothing."""
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if length != -1:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


Act = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """A misbehaviour. part: "listed" and "content" change what is served, others answer for it."""

    name: str
    part: str
    ends: str
    act: Act
    file: str = "tokenizer.json"


# ---- how answers misbehave: each takes the handler and the file's name


def says(body: bytes, status: int = 200, **headers: str) -> Act:
    head = {key.replace("_", "-"): value for key, value in headers.items()}
    return lambda handler, name: handler.send(body, status, head)


def endless(pieces: Iterator[bytes], wait_s: float = 0, status: int = 200, **headers: str) -> Act:
    def act(handler: Handler, name: str) -> None:
        head = {key.replace("_", "-"): value for key, value in headers.items()}
        handler.send(b"", status, head, length=-1)
        end = time.monotonic() + 20
        for piece in pieces:
            handler.wfile.write(piece)
            time.sleep(wait_s)
            if time.monotonic() > end:
                return

    return act


def raw(words: bytes) -> Act:
    return lambda handler, name: handler.wfile.write(words)


def silent(handler: Handler, name: str) -> None:
    handler.send(b"{", length=1000)
    handler.wfile.flush()
    time.sleep(5)


def to(where: str) -> Act:
    """Redirect; {url} and {other} are the two servers."""
    return lambda handler, name: handler.send(
        b"",
        302,
        {"Location": where.format(url=handler.state.url, other=handler.state.other_url, name=name)},
    )


def well_with(**headers: str) -> Act:
    """The right answer with odd headers."""

    def act(handler: Handler, name: str) -> None:
        head = {key.replace("_", "-"): value for key, value in headers.items()}
        state = handler.state
        if name == LARGE and "/cdn/" not in handler.path:
            return handler.send(b"", 302, head | {"Location": f"{state.other_url}/cdn/{name}"})
        return handler.send(state.files[name], headers=head)

    return act


def changed(change: Callable[[bytes], bytes], length: int | None = None) -> Act:
    return lambda handler, name: handler.send(change(handler.state.files[name]), length=length)


def cut(at: int, then: Act | None = None, only: int = 99) -> Act:
    """Close the connection after so many bytes; only: so often, after which `then` answers."""

    def act(handler: Handler, name: str) -> None:
        content, start = handler.state.files[name], handler.start
        if handler.state.num_large > only:
            return (then or (lambda handler, name: handler.well(name)))(handler, name)
        span = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        rest = content[start:]
        return handler.send(
            rest[:at], 206 if start else 200, span if start else {}, length=len(rest)
        )

    return act


def ranged(span: str, status: int = 206, shift: int = 0) -> Act:
    """Answer a request for the rest with this Content-Range, and any other well."""

    def act(handler: Handler, name: str) -> None:
        content, start = handler.state.files[name], handler.start
        if not start:
            return handler.well(name)
        words = span.format(start=start + shift, end=len(content) - 1, total=len(content))
        body = b"" if status == 416 else content[start + shift :]
        return handler.send(body, status, {"Content-Range": words})

    return act


def from_ten(handler: Handler, name: str) -> None:
    content = handler.state.files[name]
    span = f"bytes 10-{len(content) - 1}/{len(content)}"
    handler.send(content[10:], 206, {"Content-Range": span})


def chunked(*chunks: bytes) -> Act:
    def act(handler: Handler, name: str) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.close_connection = True
        handler.send(b"".join(chunks), headers={"Transfer-Encoding": "chunked"}, length=-1)

    return act


def serve(state: State) -> list[ThreadingHTTPServer]:
    """Two servers of different origins; the caller runs and closes them."""
    handler = type("ThisHandler", (Handler,), {"state": state})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    state.url, state.other_url = (
        f"http://127.0.0.1:{server.server_address[1]}" for server in servers
    )
    return servers
