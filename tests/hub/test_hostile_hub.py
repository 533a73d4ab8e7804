"""Whatever a hub does, a pull ends soon, in one line, and nothing outside the cache changes."""

from __future__ import annotations

import re
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from janus_edge.hub import repository, transfer
from janus_edge.hub.checkpoint import download
from janus_edge.runtime.errors import PullError
from tests.hub.conftest import contents
from tests.hub.hostile_cases import CASES
from tests.hub.hostile_hub import LARGE, NAME, Case, State, serve

TOKEN = "hf_secret"
WITHIN_S = 30
OVERHEAD_BYTES = 2**12  # locks


@pytest.fixture
def files(checkpoint_dir: Path) -> dict[str, bytes]:
    """Those that are pulled of the random checkpoint, the weights long enough to be cut."""
    found = contents(checkpoint_dir)
    assert len(found[LARGE]) > 2 * 70_000
    return {name: found[name] for name in ("config.json", "tokenizer.json", LARGE)}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(transfer, "SILENCE_S", 2.0)
    monkeypatch.setattr(transfer, "WAITS_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(repository, "_LISTING_S", 3.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))


@pytest.fixture
def serving(request: pytest.FixtureRequest, files: dict[str, bytes]) -> Iterator[State]:
    """The hub of a case, running."""
    case = request.param
    state = State(case.act(files) if case.part == "content" else files, case)
    servers = serve(state)
    for server in servers:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield state
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def small_files_only(files: dict[str, bytes]) -> Iterator[None]:
    """No file may grow beyond the largest that is listed: a write beyond it fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(map(len, files.values())), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def pulled(url: str, cache: Path) -> tuple[Path, Path | None]:
    """Download the checkpoint."""
    source = repository.find(NAME, endpoint=url, cache_dir=cache)
    return download(source, report=[].append)


def seen(folder: Path, cache: Path) -> dict[str, tuple[bytes, int]]:
    """Everything around the cache: contents and times."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        if path == cache or cache in path.parents:
            continue
        content = path.read_bytes() if path.is_file() else b""
        time_ns = 0 if path in cache.parents else path.stat().st_mtime_ns
        found[str(path)] = (content, time_ns)
    return found


def around(tmp_path: Path) -> Path:
    """Make a cache with victims wherever a path could lead; returns the cache."""
    cache = tmp_path / "home" / "hf" / "cache"
    cache.mkdir(parents=True)
    for folder in (tmp_path, *cache.parents[: len(cache.parents) - len(tmp_path.parents)]):
        (folder / "victim.txt").write_text(f"precious {folder}", encoding="utf-8")
    return cache


def test_there_are_many_cases() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40


@pytest.mark.usefixtures("small_files_only")
@pytest.mark.parametrize("serving", CASES, indirect=True, ids=[case.name for case in CASES])
def test_a_hostile_hub_does_no_harm(serving: State, tmp_path: Path) -> None:
    case, cache = serving.case, around(tmp_path)
    before, began = seen(tmp_path, cache), time.monotonic()
    try:
        folder, _ = pulled(serving.url, cache)
        said = ""
        got = {name: (folder / name).read_bytes() for name in serving.files}
        assert got == serving.files
    except PullError as error:
        said = str(error)
        assert said.isprintable() and len(said) < 9999 and said.startswith(f"{NAME}: ")
    assert re.search(case.ends, said) if case.ends else said == ""
    assert time.monotonic() - began < WITHIN_S
    assert seen(tmp_path, cache) == before
    regular = [path for path in cache.rglob("*") if path.is_file() and not path.is_symlink()]
    limit = sum(map(len, serving.files.values())) + OVERHEAD_BYTES
    assert sum(path.stat().st_size for path in regular) <= limit
    hub_port = int(serving.url.rsplit(":", 1)[1])
    for port, path, headers in serving.asked:
        assert port == hub_port or TOKEN not in str(headers), path
    assert any(TOKEN in str(headers) for *_, headers in serving.asked)


@pytest.mark.parametrize("serving", [Case("none", "", "", print)], indirect=True)
@pytest.mark.parametrize("kept", ["config.json", LARGE])
def test_the_next_pull_mends_what_a_hostile_one_left(
    serving: State, tmp_path: Path, kept: str
) -> None:
    cache = around(tmp_path)
    folder, _ = pulled(serving.url, cache)
    (folder / kept).resolve().write_bytes(b"something else")
    with pytest.raises(PullError, match="is damaged"):
        pulled(serving.url, cache)
    folder, _ = pulled(serving.url, cache)
    assert (folder / kept).read_bytes() == serving.files[kept]


@pytest.mark.parametrize("serving", [Case("none", "", "", print)], indirect=True)
def test_damage_is_never_dropped_outside_the_cache(serving: State, tmp_path: Path) -> None:
    cache = around(tmp_path)
    folder, _ = pulled(serving.url, cache)
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(tmp_path / "victim.txt")
    with pytest.raises(PullError, match="is damaged"):
        pulled(serving.url, cache)
    assert (tmp_path / "victim.txt").read_text(encoding="utf-8").startswith("precious")
    assert not (folder / "config.json").is_symlink()
