"""Where a bundle is written: it takes its place at once, and nothing but a bundle is replaced."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from janus_edge.export.bundle import writer as writer
from janus_edge.export.bundle.writer import export_bundle
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.errors import OutputError
from janus_edge.runtime.files import private_folder
from janus_edge.runtime.removal import foreign, remove_bundle
from tests.crash.writers import copied_parts
from tests.hub.conftest import line_of


@pytest.fixture
def quick(bundle_dir: Path) -> Iterator[None]:
    """Parts are copied from the bundle there is: these tests are about where they go."""
    with copied_parts(bundle_dir):
        yield


def export(checkpoint: Checkpoint, folder: Path, **options: object) -> None:
    export_bundle(checkpoint, folder, max_length=96, report=lambda line: None, **options)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.usefixtures("quick")
def test_the_users_own_folders_beside_a_bundle_stay(checkpoint: Checkpoint, tmp_path: Path) -> None:
    beside = {"x.old", "x.part", ".x.part", ".x.1.removed", "x.cache"}
    for name in beside:
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_text(name, encoding="utf-8")
    export(checkpoint, tmp_path / "x")
    export(checkpoint, tmp_path / "x", replace=True)
    open_bundle(tmp_path / "x", check_all=True)
    assert names(tmp_path) == {*beside, "x"}
    assert all((tmp_path / n / "precious").read_text(encoding="utf-8") == n for n in beside)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("made", "says"),
    [
        ((), "already there"),
        (("notes.txt",), "already there"),
        (("manifest.json", "notes.txt"), "holds manifest.json, which is no part of a bundle"),
        (("manifest.json", "decoder.onnx", "results.npy"), "holds decoder.onnx, which is no part"),
    ],
)
def test_only_a_bundle_is_replaced(
    checkpoint: Checkpoint, tmp_path: Path, made: tuple[str, ...], says: str
) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    for name in made:
        (folder / name).write_text("{}", encoding="utf-8")
    for replace in (True, False):
        line = line_of(OutputError, export, checkpoint, folder, replace=replace)
        assert (says if replace else "already there") in line
    assert names(folder) == set(made)


def test_a_checksum_that_is_a_pipe_hangs_nobody(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    os.mkfifo(tmp_path / "manifest.sha256")
    assert foreign(tmp_path) == "manifest.json"


@pytest.mark.usefixtures("quick")
def test_a_name_that_a_manifest_cannot_hold(checkpoint: Checkpoint, tmp_path: Path) -> None:
    line = line_of(OutputError, export, checkpoint, tmp_path / "a\x07b")
    assert "a control character is in its name" in line and names(tmp_path) == set()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("is_damaged", [False, True])
@pytest.mark.parametrize("name", ["my_latents.npy", "other.onnx", "image_encoder.onnx/x"])
def test_a_name_alone_makes_no_file_ours(
    checkpoint: Checkpoint, tmp_path: Path, name: str, *, is_damaged: bool
) -> None:
    folder = tmp_path / "x"
    export(checkpoint, folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("precious", encoding="utf-8")
    if is_damaged:
        (folder / "manifest.json").write_text("{", encoding="utf-8")
    line = line_of(OutputError, export, checkpoint, folder, replace=True)
    assert f"holds {name.partition('/')[0]}, which is no part" in line
    assert (folder / name).read_text(encoding="utf-8") == "precious"


@pytest.mark.usefixtures("quick")
def test_a_damaged_bundle_is_replaced(checkpoint: Checkpoint, tmp_path: Path) -> None:
    export(checkpoint, tmp_path / "x")
    (tmp_path / "x" / "manifest.json").write_text("{", encoding="utf-8")
    (tmp_path / "x" / "decoder.onnx").unlink()
    export(checkpoint, tmp_path / "x", replace=True)
    open_bundle(tmp_path / "x", check_all=True)


@pytest.mark.usefixtures("quick")
def test_a_link_to_a_bundle_stays_one(checkpoint: Checkpoint, tmp_path: Path) -> None:
    export(checkpoint, tmp_path / "far" / "x")
    (tmp_path / "near").symlink_to(tmp_path / "far" / "x")
    before = (tmp_path / "far" / "x").stat().st_ino
    export(checkpoint, tmp_path / "near", replace=True)
    assert (tmp_path / "near").is_symlink() and names(tmp_path / "far") == {"x"}
    assert (tmp_path / "far" / "x").stat().st_ino != before


@pytest.mark.usefixtures("quick")
def test_a_failed_export_leaves_no_folders(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    line = line_of(OutputError, export, checkpoint, tmp_path / "file" / "x")
    assert line.startswith(f"{tmp_path / 'file' / 'x'}: ")
    monkeypatch.setattr(writer, "_write_manifest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(checkpoint, tmp_path / "a" / "b" / "x")
    assert names(tmp_path) == {"file"}


def hold(folder: Path, ready: multiprocessing.Event) -> None:
    with private_folder(folder, target="x"):
        ready.set()
        signal.pause()


@pytest.mark.usefixtures("quick")
def test_one_export_at_a_time_and_a_killed_one_blocks_none(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    other = fork.Process(target=hold, args=(tmp_path, ready))
    other.start()
    assert ready.wait(60)
    line = line_of(OutputError, export, checkpoint, tmp_path / "x")
    assert f"{tmp_path / 'x'}: process {other.pid} is writing it; wait for it" in line
    export(checkpoint, tmp_path / "y")
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    export(checkpoint, tmp_path / "x")
    assert names(tmp_path) == {"x", "y"}


def test_a_bundle_with_something_else_in_it_is_not_removed(
    bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JANUS_EDGE_HOME", str(tmp_path))
    folder = tmp_path / "bundles" / "x"
    shutil.copytree(bundle_dir, folder)
    (folder / "thesis.tex").touch()
    assert "holds thesis.tex" in line_of(OutputError, remove_bundle, "x")
    (folder / "thesis.tex").unlink()
    cache = folder.with_name("x.cache")
    cache.mkdir()
    for name in ("decoder-GPU-10.bin", "timings.bin", "precious.txt", "precious.bin"):
        (cache / name).touch()
    remove_bundle("x")
    assert names(folder.parent) == {"x.cache"} and names(cache) == {"precious.txt", "precious.bin"}
