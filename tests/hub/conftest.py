"""A small server that speaks the hub's protocol and serves random-weight repositories."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from janus_edge.hub import transfer
from janus_edge.hub.checkpoint import download
from janus_edge.hub.repository import find
from janus_edge.runtime.errors import JanusEdgeError
from tests.hub.uploads import LARGE, Uploads

WEIGHTS = "model.safetensors"


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
class Repo:
    """A repository: its commits, how the server misbehaves about it, and what it was asked."""

    name: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    token: str | None = None  # needed for the files of a gated repository
    cuts: list[Cut] = field(default_factory=list)  # one a request for a large file
    flipped: str = ""  # this file is sent with a wrong byte
    has_hashes: bool = True
    is_private: bool = False
    answer: tuple[int, str, str] | None = None  # status, X-Error-Code, body, whatever is asked
    asked: list[Asked] = field(default_factory=list)

    @property
    def newest(self) -> dict[str, bytes]:
        """The files of the main branch."""
        return self.commits[self.branches["main"]]

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        """Add a commit, the newest of its branch."""
        sha = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha

    def cut(self, *at: int, is_reset: bool) -> None:
        """Drop the connections of the next large files after so many bytes each."""
        self.cuts = [Cut(end, is_reset) for end in at]

    def sent(self, commit: str, file: str) -> bytes:
        """What the server sends for a file."""
        content = self.commits[commit][file]
        return content if file != self.flipped else content[:-1] + bytes([content[-1] ^ 1])

    def files_asked(self) -> set[str]:
        """Names of the files that were asked for."""
        paths = [asked.path for asked in self.asked]
        return {path.split("/", 5)[5] for path in paths if "/resolve/" in path}

    def ranges(self) -> list[str | None]:
        """The Range of each request for the bytes of a large file."""
        return [asked.headers["Range"] for asked in self.asked if "/cdn/" in asked.path]


@dataclass
class Hub:
    """What the server serves, and what an upload needs: see ``uploads``."""

    url: str = ""
    repos: list[Repo] = field(default_factory=list)  # a test may rename one
    token: str = "hf_may_write"
    blobs: dict[str, bytes] = field(default_factory=dict)
    moved: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, files: dict[str, bytes]) -> Repo:
        """Add a repository with one commit."""
        repo = Repo(name)
        repo.commit("main", files)
        self.repos.append(repo)
        return repo


class Handler(Uploads, BaseHTTPRequestHandler):
    """The hub's listings and files; large files are elsewhere, as on the real hub."""

    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        match self.path.partition("?")[0].strip("/").split("/"):
            case ["api", "models", owner, name, *rest]:
                self._serve(f"{owner}/{name}", self._listing, rest[1] if rest else "main")
            case ["cdn", owner, name, commit, *file]:
                self._serve(f"{owner}/{name}", self._large, commit, "/".join(file))
            case [owner, name, "resolve", commit, *file]:
                self._serve(f"{owner}/{name}", self._file, commit, "/".join(file))
            case _:
                self._send(404, b"")

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _serve(self, name: str, answer: Callable[..., None], *words: str) -> None:
        """Note down a request for a repository, then answer it."""
        repo = next((repo for repo in self.hub.repos if repo.name == name), None)
        if repo is None:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        repo.asked.append(Asked(self.command, self.path, self.headers))
        if repo.answer:
            status, code, body = repo.answer
            return self._send(status, body.encode(), {"X-Error-Code": code} if code else {})
        return answer(repo, *words)

    def _listing(self, repo: Repo, revision: str) -> None:
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        files = repo.commits[commit]
        siblings = [self._sibling(repo, name, content) for name, content in files.items()]
        answer = {"id": repo.name, "sha": commit, "siblings": siblings, "private": repo.is_private}
        return self._send(200, json.dumps(answer).encode())

    def _sibling(self, repo: Repo, name: str, content: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"rfilename": name}
        if "blobs=true" in self.path.lower() and repo.has_hashes:
            entry |= {"size": len(content), "blobId": git_hash(content)}
            if name.endswith(LARGE):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
        return entry

    def _file(self, repo: Repo, commit: str, name: str) -> None:
        if repo.token and self.headers["Authorization"] != f"Bearer {repo.token}":
            return self._send(401, b"", {"X-Error-Code": "GatedRepo"})
        if name not in repo.commits[commit]:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        content = repo.commits[commit][name]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_hash(content)}"'}
        if not name.endswith(LARGE):
            return self._send(200, repo.sent(commit, name), headers)
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
        headers |= {
            "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"{elsewhere}/cdn/{repo.name}/{commit}/{name}",
        }
        return self._send(302, b"", headers)

    def _large(self, repo: Repo, commit: str, name: str) -> None:
        content = repo.sent(commit, name)
        asked = self.headers["Range"]
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        cut = repo.cuts.pop(0) if repo.cuts else None
        self._send(206 if asked else 200, content[start:], headers if asked else {}, cut)

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


def contents(folder: Path) -> dict[str, bytes]:
    """The files in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def line_of(raises: type[JanusEdgeError], call, *words, **options) -> str:
    """The one line that a call must fail with."""
    with pytest.raises(raises) as caught:
        call(*words, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running hub without repositories."""
    hub = Hub()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(transfer, "WAITS_S", (0.0, 0.0, 0.0))
    handler = type("ThisHandler", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield hub
        server.shutdown()
        thread.join()


@pytest.fixture
def repo(hub: Hub, checkpoint_dir: Path) -> Repo:
    """A repository of the hub: the random checkpoint and what nobody needs."""
    decoys = {"README.md": b"#", "pytorch_model.bin": bytes(10**6), "images/a.png": b"png"}
    decoys |= {"onnx/model.safetensors": b"", "config.yaml": b""}
    return hub.add("tests/Mini_Janus", contents(checkpoint_dir) | decoys)


@pytest.fixture
def fetch_both(hub: Hub, repo: Repo, tmp_path: Path):
    """Download from the hub into an empty cache: a checkpoint and its autoencoder."""

    def fetch_both(
        name: str = repo.name, url: str = hub.url, **options
    ) -> tuple[Path, Path | None]:
        where = {"cache_dir": tmp_path / "cache", "revision": None} | options
        words = {key: where.pop(key) for key in ("vae", "report") if key in where}
        source = find(name, endpoint=url, **where)
        return download(source, **{"report": [].append} | words)

    return fetch_both


@pytest.fixture
def fetch(fetch_both):
    """Download a checkpoint that brings its own."""

    def fetch(*words: str, **options) -> Path:
        folder, autoencoder = fetch_both(*words, **options)
        assert autoencoder is None
        return folder

    return fetch


@pytest.fixture
def home(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands in a process of their own use the hub and keep everything in this test's folder."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("JANUS_EDGE_HOME", str(tmp_path / "home"))
    # More only get in each other's way on a busy machine.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "home" / "bundles"
