from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from janus_edge.runtime import bundle as bundles
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.errors import BundleError
from janus_edge.runtime.hash_cache import home_folder


@pytest.fixture
def copy(bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JANUS_EDGE_HOME", str(tmp_path / "home"))
    shutil.copytree(bundle_dir, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed."""
    names, real = [], bundles.file_sha256
    monkeypatch.setattr(
        bundles, "file_sha256", lambda path: (names.append(path.name), real(path))[1]
    )
    return names


def test_files_are_hashed_once(copy: Path, hashed: list[str]) -> None:
    parts = open_bundle(copy).manifest.components
    files = [*(part.file for part in parts.values()), "tokenizer.bin"]
    assert sorted(hashed) == sorted(files)
    hashed.clear()
    open_bundle(copy)
    assert hashed == []
    open_bundle(copy, check_all=True)
    assert len(hashed) == len(files)


def test_a_touched_file_is_hashed_again(copy: Path, hashed: list[str]) -> None:
    open_bundle(copy)
    hashed.clear()
    os.utime(copy / "decoder.onnx")
    open_bundle(copy)
    assert hashed == ["decoder.onnx"]
    hashed.clear()
    open_bundle(copy)
    assert hashed == []


def test_a_change_that_hides_its_time_is_found(copy: Path) -> None:
    open_bundle(copy)
    path = copy / "decoder.onnx"
    before, raw = path.stat(), bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):  # what was found wrong is not remembered as right
        with pytest.raises(BundleError, match=r"decoder.onnx: damaged"):
            open_bundle(copy)


def test_another_hash_in_the_manifest_is_another_file(copy: Path, hashed: list[str]) -> None:
    from janus_edge.runtime.hash_cache import check_changed

    asked: list[str] = []
    for expected in ("a", "a", "b"):
        check_changed(copy, [("decoder.onnx", expected)], lambda path, sha256: asked.append(sha256))
    assert asked == ["a", "b"]


@pytest.mark.parametrize("note", ["", "[1]", '{"decoder.onnx": 3}'])
def test_a_damaged_note_does_not_matter(copy: Path, hashed: list[str], note: str) -> None:
    open_bundle(copy)
    (path,) = (home_folder() / "checked").iterdir()
    path.write_text(note, encoding="utf-8")
    hashed.clear()
    open_bundle(copy)
    assert hashed
    hashed.clear()
    open_bundle(copy)
    assert not hashed


def test_a_home_that_cannot_be_written_does_not_matter(
    copy: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("JANUS_EDGE_HOME", str(tmp_path / "file"))
    open_bundle(copy)
    hashed.clear()
    open_bundle(copy)
    assert hashed
