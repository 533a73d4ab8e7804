"""Files and folders appear whole or not at all, and nothing that is not ours goes."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from janus_edge.runtime import exchange, files
from janus_edge.runtime.errors import OutputError
from janus_edge.runtime.exchange import put_in_place
from janus_edge.runtime.files import MARKER, PREFIX, append_line, atomic_write, private_folder
from janus_edge.runtime.place import replacing
from janus_edge.runtime.tiles import map_data

KILLED = """
import os, signal, sys
from pathlib import Path
from janus_edge.runtime.files import private_folder
with private_folder(Path(sys.argv[1]), target="a") as room:
    (room / "new").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def left_by_a_killed_writer(folder: Path) -> Path:
    """Have a process killed as it writes; returns what it leaves."""
    subprocess.run([sys.executable, "-c", KILLED, folder], check=False, timeout=60)
    (room,) = [path for path in folder.iterdir() if path.name.startswith(PREFIX)]
    return room


@pytest.mark.parametrize("name", ["a", "a.png", "ä" * 125, "n" * 250, "n" * 100 + "." + "x" * 150])
def test_a_file_gets_any_name_that_a_file_can_have(tmp_path: Path, name: str) -> None:
    for content in ("old", "new"):
        with atomic_write(tmp_path / name) as part:
            part.write_text(content, encoding="utf-8")
            assert len(part.name) < 25
    assert (tmp_path / name).read_text(encoding="utf-8") == "new"
    assert names(tmp_path) == {name}


def test_the_suffix_stays_where_it_is_short(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.png") as part:
        part.touch()
        assert part.suffix == ".png"


def test_a_failed_block_leaves_the_old(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old", encoding="utf-8")
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a") as part:
        part.write_text("half", encoding="utf-8")
        raise ZeroDivisionError
    assert names(tmp_path) == {"a"}
    assert (tmp_path / "a").read_text(encoding="utf-8") == "old"


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path) -> None:
    assert names(left_by_a_killed_writer(tmp_path)) == {"new", MARKER}
    with atomic_write(tmp_path / "b") as part:
        part.touch()
    assert names(tmp_path) == {"b"}


def test_nothing_that_is_not_ours_goes(tmp_path: Path) -> None:
    mine = {"a.part", "a.old", ".a.123.part", ".a.1.removed", f"{PREFIX}x", f"{PREFIX}y"}
    for name in mine:
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").touch()
    (tmp_path / f"{PREFIX}z").symlink_to(tmp_path / "a.old")
    (tmp_path / f"{PREFIX}x" / MARKER).write_text('{"by": "someone"}', encoding="utf-8")
    with atomic_write(tmp_path / "a") as part:
        part.touch()
    assert names(tmp_path) == {*mine, "a", f"{PREFIX}z"}
    assert all((tmp_path / name / "precious").exists() for name in mine)


@pytest.mark.parametrize("marker", ["", '{"by": "jan', '{"by": "janus-edge", "proc', "mine"])
@pytest.mark.parametrize("is_alone", [True, False])
def test_an_unfinished_marker(tmp_path: Path, marker: str, is_alone: bool) -> None:
    left = tmp_path / f"{PREFIX}x"
    left.mkdir()
    (left / MARKER).write_text(marker, encoding="utf-8")
    if not is_alone:
        (left / "precious").touch()
    with private_folder(tmp_path):
        pass
    assert left.exists() != (is_alone and marker != "mine")


def test_what_is_being_written_is_left_alone(tmp_path: Path) -> None:
    with private_folder(tmp_path, target="a") as room:
        (room / "new").touch()
        with private_folder(tmp_path, target="b"), atomic_write(tmp_path / "a") as part:
            part.touch()
        assert (room / "new").exists()
        with (
            pytest.raises(OutputError, match=rf"a: process {os.getpid()} is writing it"),
            private_folder(tmp_path, target="a"),
        ):
            pass
    with private_folder(tmp_path, target="a"):
        pass
    assert names(tmp_path) == {"a"}


def test_one_of_many_threads_gets_a_target(tmp_path: Path) -> None:
    start, end, got = threading.Barrier(8), threading.Barrier(8), []

    def write() -> None:
        start.wait()
        try:
            with private_folder(tmp_path, target="a"):
                got.append("written")
                end.wait()
        except OutputError:
            got.append("refused")
            end.wait()

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == ["refused"] * 7 + ["written"]
    assert not names(tmp_path)


def make(folder: Path, content: str) -> Path:
    folder.mkdir()
    (folder / "file").write_text(content, encoding="utf-8")
    return folder


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(exchange, "_exchange", lambda *_: False)
    for content in ("old", "new"):
        with private_folder(tmp_path, target="a") as room:
            put_in_place(make(room / "new", content), tmp_path / "a")
    assert (tmp_path / "a" / "file").read_text(encoding="utf-8") == "new"
    assert names(tmp_path) == {"a"}


def test_linux_exchanges_folders_at_once(tmp_path: Path) -> None:
    one, other = make(tmp_path / "a", "a"), make(tmp_path / "b", "b")
    if not exchange._exchange(one, other):
        pytest.skip("this file system cannot")
    assert (one / "file").read_text(encoding="utf-8") == "b"
    assert (other / "file").read_text(encoding="utf-8") == "a"


def test_the_old_folder_comes_back_after_a_kill_between_two_renames(tmp_path: Path) -> None:
    make(tmp_path / "a", "old")
    room = left_by_a_killed_writer(tmp_path)
    (tmp_path / "a").rename(room / "old")  # where the writer stops
    with atomic_write(tmp_path / "b") as part:
        part.touch()
    assert (tmp_path / "a" / "file").read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == {"a", "b"}


def test_a_marker_leads_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    room = left_by_a_killed_writer(folder)
    make(room / "old", "x")
    words = {"by": "janus-edge", "process": 1, "target": "../there"}
    (room / MARKER).write_text(json.dumps(words), encoding="utf-8")
    with private_folder(folder):
        pass
    assert names(tmp_path) == {"here"} and not names(folder)


def test_lines_are_appended_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_line(path, b"1\n")
    with path.open("ab") as file:
        file.write(b'{"half')
    threads = [
        threading.Thread(target=append_line, args=(path, b"x" * 5000 + b"\n")) for _ in range(9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text(encoding="utf-8").splitlines() == ["1", '{"half', *["x" * 5000] * 9]


def _share_in_memory(path: Path) -> float:
    """Return how much of a file is in the page cache."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        address = np.frombuffer(mapped, np.uint8).ctypes.data
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(address), len(mapped), pages) == 0
        return sum(page & 1 for page in pages) / len(pages)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="no page cache that takes advice")
def test_large_files_of_a_new_bundle_leave_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next reader brings them in with large pages. Small ones stay."""
    monkeypatch.setattr(files, "_LARGE", 2**22)
    with replacing(tmp_path / "b", replace=False) as part:
        (part / "decoder.data").write_bytes(b"x" * 2**23)
        (part / "manifest.json").write_bytes(b"x" * 2**20)
    if _share_in_memory(tmp_path / "b/decoder.data") == 1 and _is_in_memory(tmp_path):
        pytest.skip("the file system is the page cache")
    assert _share_in_memory(tmp_path / "b/decoder.data") < 0.1
    assert _share_in_memory(tmp_path / "b/manifest.json") == 1
    assert bytes(map_data(tmp_path / "b/decoder.data")[:3]) == b"xxx"


def _is_in_memory(folder: Path) -> bool:
    shown = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, check=True)
    return shown.stdout.strip() in (b"tmpfs", b"ramfs")
