"""A small server that speaks the hub's protocol and serves a random-weight repository."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

LARGE = (".safetensors", ".bin")


@dataclass(frozen=True)
class Asked:
    """A request that the server got."""

    method: str
    path: str
    headers: Message


@dataclass(frozen=True)
class Cut:
    """Where the server drops the connection that sends a large file."""

    at: int
    is_reset: bool = False


@dataclass
class Hub:
    """What the server serves, how it misbehaves, and what it was asked."""

    url: str = ""
    repo: str = "tests/Mini_Janus"
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    token: str | None = None  # needed for the files of a gated repository
    cuts: list[Cut] = field(default_factory=list)  # one a request for a large file
    flipped: str = ""  # this file is sent with a wrong byte
    has_hashes: bool = True
    answer: tuple[int, str, str] | None = None  # status, X-Error-Code, body, whatever is asked
    asked: list[Asked] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        """Add a commit, the newest of its branch."""
        sha = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha

    def cut(self, *at: int, is_reset: bool) -> None:
        """Drop the connections of the next large files after so many bytes each."""
        self.cuts = [Cut(end, is_reset) for end in at]

    def files_asked(self) -> set[str]:
        """Names of the files that were asked for."""
        paths = [asked.path for asked in self.asked]
        return {path.split("/", 5)[5] for path in paths if "/resolve/" in path}

    def ranges(self) -> list[str | None]:
        """The Range of each request for the bytes of a large file."""
        return [asked.headers["Range"] for asked in self.asked if "/cdn/" in asked.path]


class Handler(BaseHTTPRequestHandler):
    """The hub's listing and files; large files are elsewhere, as on the real hub."""

    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.asked.append(Asked(self.command, self.path, self.headers))
        if self.hub.answer:
            status, code, body = self.hub.answer
            return self._send(status, body.encode(), {"X-Error-Code": code} if code else {})
        match self.path.partition("?")[0].strip("/").split("/"):
            case ["api", "models", owner, name, *rest] if f"{owner}/{name}" == self.hub.repo:
                return self._listing(rest[1] if rest else "main")
            case [owner, name, "resolve", commit, *file] if f"{owner}/{name}" == self.hub.repo:
                return self._file(commit, "/".join(file))
            case ["cdn", commit, file]:
                return self._large(commit, file)
        return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _listing(self, revision: str) -> None:
        commit = self.hub.branches.get(revision, revision)
        if commit not in self.hub.commits:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        files = self.hub.commits[commit]
        siblings = [self._sibling(name, content) for name, content in files.items()]
        answer = {"id": self.hub.repo, "sha": commit, "siblings": siblings}
        return self._send(200, json.dumps(answer).encode())

    def _sibling(self, name: str, content: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"rfilename": name}
        if "blobs=true" in self.path.lower() and self.hub.has_hashes:
            entry |= {"size": len(content), "blobId": git_hash(content)}
            if name.endswith(LARGE):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
        return entry

    def _file(self, commit: str, name: str) -> None:
        if self.hub.token and self.headers["Authorization"] != f"Bearer {self.hub.token}":
            return self._send(401, b"", {"X-Error-Code": "GatedRepo"})
        content = self.hub.commits[commit][name]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_hash(content)}"'}
        if not name.endswith(LARGE):
            return self._send(200, self._flip(name, content), headers)
        headers |= {
            "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"{self.hub.url.replace('127.0.0.1', 'localhost')}/cdn/{commit}/{name}",
        }
        return self._send(302, b"", headers)

    def _large(self, commit: str, name: str) -> None:
        content = self._flip(name, self.hub.commits[commit][name])
        asked = self.headers["Range"]
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        cut = self.hub.cuts.pop(0) if self.hub.cuts else None
        self._send(206 if asked else 200, content[start:], headers if asked else {}, cut)

    def _flip(self, name: str, content: bytes) -> bytes:
        if name != self.hub.flipped:
            return content
        return content[:-1] + bytes([content[-1] ^ 1])

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        cut: Cut | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: cut.at] if cut else body)
        if cut and cut.is_reset:
            time.sleep(0.2)  # until the other side has read what was sent
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()


def git_hash(content: bytes) -> str:
    """The name git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def hub(checkpoint_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running hub with one repository: the random checkpoint and what nobody needs."""
    hub = Hub()
    files = {path.name: path.read_bytes() for path in checkpoint_dir.iterdir()}
    decoys = {"README.md": b"#", "pytorch_model.bin": bytes(10**6), "images/a.png": b"png"}
    hub.commit("main", files | decoys | {"onnx/model.safetensors": b"", "config.yaml": b""})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # less is lost by a cut
    handler = type("ThisHandler", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield hub
        server.shutdown()
        thread.join()
