from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from janus_edge.runtime.bundle import SHIPPED, bundles_folder, find_bundle, pulled_bundles
from janus_edge.runtime.errors import BundleError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of bundles, not there yet."""
    monkeypatch.setenv("JANUS_EDGE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "bundles"


def test_lists_and_removes(cli, bundle_dir: Path, home: Path) -> None:
    shutil.copytree(bundle_dir, home / "mine")
    size = sum(path.stat().st_size for path in bundle_dir.iterdir()) / 1e6
    *shipped, mine = cli("models").stdout.splitlines()
    assert [line.split()[:2] for line in shipped] == [
        ["tiny-flow", "shipped"],
        ["tiny-janus", "shipped"],
        ["tiny-things", "shipped"],
    ]
    assert mine.split() == ["mine", "pulled", f"{size:.1f}", "MB", "janus"]
    assert cli("generate", "a star", "--model", "mine").returncode == 0
    done = cli("models", "remove", "mine")
    assert (done.returncode, done.stdout) == (0, "removed mine\n")
    assert not list(home.iterdir())
    assert cli("models").stdout.splitlines() == shipped
    assert "no such bundle" in cli.fails("generate", "a star", "--model", "mine")


def test_no_command_is_help(cli) -> None:
    done = cli()
    assert (done.returncode, done.stderr) == (0, "") and "generate" in done.stdout
    assert "Missing argument" in cli.fails("eval")


def test_what_cannot_be_removed(cli, bundle_dir: Path, home: Path) -> None:
    shutil.copytree(bundle_dir, home / "mine")
    for name in ("yours", "../bundles/mine", str(home / "mine"), "", "."):
        line = cli.fails("models", "remove", name)
        assert "no such pulled bundle; there are: mine" in line
    assert "part of janus-edge itself" in cli.fails("models", "remove", "tiny-janus")
    assert (SHIPPED / "tiny-janus" / "manifest.json").is_file()
    assert [path.name for path in home.iterdir()] == ["mine"]


def test_damaged_bundles_are_listed_and_removed(cli, home: Path) -> None:
    (home / "broken").mkdir(parents=True)
    (home / "broken" / "manifest.json").write_text("{", encoding="utf-8")
    assert "damaged" in cli("models").stdout.splitlines()[-1]
    assert "holds manifest.json, which is no part" in cli.fails("models", "remove", "broken")
    (home / "broken" / "manifest.sha256").write_text("0" * 64, encoding="utf-8")
    assert cli("models", "remove", "broken").returncode == 0
    assert not list(home.iterdir())


def test_unfinished_bundles_have_no_name(bundle_dir: Path, home: Path) -> None:
    for name in ("a.part", "a.old", ".a.1.removed"):
        shutil.copytree(bundle_dir, home / name)
    assert pulled_bundles() == []
    with pytest.raises(BundleError, match="no such bundle"):
        find_bundle("a.part")


def test_a_path_goes_before_a_pulled_name_before_a_shipped_one(
    bundle_dir: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_bundle(None) == find_bundle("tiny-things") == SHIPPED / "tiny-things"
    assert find_bundle("tiny-janus") == SHIPPED / "tiny-janus"
    shutil.copytree(bundle_dir, home / "tiny-janus")
    assert find_bundle("tiny-janus") == home / "tiny-janus"
    shutil.copytree(bundle_dir, tmp_path / "tiny-janus")
    assert find_bundle("tiny-janus") == Path("tiny-janus")
    with pytest.raises(BundleError, match="a name: tiny-flow, tiny-janus, tiny-things, tiny-janus"):
        find_bundle("other")


def test_where_the_user_keeps_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JANUS_EDGE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/someone")
    assert bundles_folder() == Path("/someone/.cache/janus-edge/bundles")
    monkeypatch.setenv("XDG_CACHE_HOME", "/fast")
    assert bundles_folder() == Path("/fast/janus-edge/bundles")
    monkeypatch.setenv("JANUS_EDGE_HOME", "/mine")
    assert bundles_folder() == Path("/mine/bundles")
