"""Repositories that hold a bundle: pulled as it is, without PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from janus_edge.hub.pull import pull
from janus_edge.hub.repository import find
from janus_edge.runtime.bundle import bundles_folder, open_bundle
from janus_edge.runtime.errors import OptionError, OutputError, PullError
from tests.hub.conftest import Hub, Repo, contents, line_of
from tests.sealed import seal

NAME = "tests/Ready-Janus"
# What a person has who only draws: none of the libraries that an export needs.
WITHOUT = """
import sys
for name in ("torch", "onnx", "onnxscript", "safetensors", "transformers"):
    sys.modules[name] = None
from janus_edge.cli.main import run
sys.exit(run(sys.argv[1:], is_last=True))
"""


@pytest.fixture
def ready(hub: Hub, bundle_dir: Path) -> Repo:
    """A repository with a bundle, a card and a picture."""
    return hub.add(NAME, contents(bundle_dir) | {"README.md": b"#", "images/a.png": b"png"})


@pytest.fixture
def take(ready: Repo, hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Pull it in this process."""
    monkeypatch.setattr(
        "janus_edge.hub.pull.find",
        partial(find, endpoint=hub.url, cache_dir=tmp_path / "cache"),
    )
    return lambda **options: pull(ready.name, **{"report": [].append} | options)


def test_a_bundle_is_pulled_and_draws_without_torch(ready: Repo, home: Path) -> None:
    def alone(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", WITHOUT, *words],
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            env={**os.environ},
        )

    done = alone("pull", ready.name)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.splitlines()[-1] == str(home / "ready-janus")
    expected = {name: raw for name, raw in ready.newest.items() if "/" not in name}
    del expected["README.md"]
    assert contents(home / "ready-janus") == expected
    assert ready.files_asked() == set(expected)
    drawn = alone("generate", "a star", "--model", "ready-janus", "-o", str(home / "a.png"))
    assert drawn.returncode == 0, drawn.stderr


def test_its_files_take_the_space_once(take) -> None:
    folder = take()
    assert (folder / "decoder.onnx").stat().st_nlink == 2
    open_bundle(folder)


def test_a_file_that_is_not_the_manifests(take, ready: Repo) -> None:
    """Its hash in the listing is right: the repository itself is wrong."""
    ready.commit("main", ready.newest | {"decoder.onnx": b"another"})
    line = line_of(PullError, take)
    assert line.startswith(f"{NAME}: no bundle that can be used: decoder.onnx: damaged")
    assert list(bundles_folder().iterdir()) == [] if bundles_folder().exists() else True
    del ready.newest["decoder.onnx"]
    assert "has no decoder.onnx, which its manifest.json names" in line_of(PullError, take)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(format=2), "format 2, but this version reads format 3"),
        (lambda m: m["components"]["decoder"].update(file="../x"), "components.decoder.file"),
        (lambda m: m["sizes"].update(num_layers=7), "decoder"),
    ],
)
def test_a_manifest_that_does_not_fit(
    take, ready: Repo, bundle_dir: Path, tmp_path: Path, change, says: str
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, raw in contents(bundle_dir).items():
        (copy / name).write_bytes(raw)
    ready.commit("main", contents(seal(copy, change)))
    assert says in line_of(PullError, take)
    assert not (bundles_folder() / "ready-janus").exists()


def test_options_want_a_checkpoint(take, ready: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    line = line_of(OptionError, take, quantize="int8")
    assert line == f"{NAME}: holds a ready bundle and no checkpoint; pull without --quantize"
    made = []
    monkeypatch.setattr(
        "janus_edge.hub.checkpoint.compile_checkpoint", lambda *_, **rest: made.append(rest)
    )
    ready.commit("main", ready.newest | {"config.json": b"{}"})
    take(quantize="int8")  # now there is a checkpoint beside the bundle
    assert made[0]["quantize"] == "int8"
    take()
    assert len(made) == 1


def test_it_is_replaced_when_asked(take, ready: Repo) -> None:
    folder = take()
    assert "already there" in line_of(OutputError, take)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert take(replace=True) == folder
    (folder / "mine.txt").write_text("x", encoding="utf-8")
    assert "mine.txt" in line_of(OutputError, take, replace=True)
    assert json.loads((folder / "manifest.json").read_bytes()) == manifest
