"""Bundles that are pushed to the hub, and pulled from it by others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from janus_edge.hub.card import is_pushed
from janus_edge.hub.push import push
from janus_edge.runtime.bundle import SHIPPED, open_bundle
from janus_edge.runtime.errors import (
    JanusEdgeError,
    OptionError,
    OutputError,
    PushError,
)
from tests.hub.conftest import Hub, contents, line_of
from tests.sealed import seal

NAME = "tests/Mine"
# huggingface_hub uploads large files by a form of its HTTP library that is no longer wished for.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content")


@pytest.fixture
def mine(bundle_dir: Path, tmp_path: Path) -> Path:
    """A bundle of one's own."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, raw in contents(bundle_dir).items():
        (folder / name).write_bytes(raw)
    return folder


@pytest.fixture
def send(hub: Hub, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Push it."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    options = {"license": "mit", "report": [].append, "endpoint": hub.url}

    def send(model: Path = mine, repo: str = NAME, **rest: object) -> dict[str, bytes]:
        push(model, repo, **options | {"cache_dir": tmp_path / "cache"} | rest)
        return next(each for each in hub.repos if each.name == repo).newest

    return send


def card_of(files: dict[str, bytes]) -> str:
    return files["README.md"].decode()


def test_what_is_pushed_is_pulled(hub: Hub, mine: Path, home: Path, cli, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    done = cli("push", str(mine), NAME, "--license", "mit", "--private")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.splitlines()[-1] == f"pull it: janus-edge pull {NAME}"
    (repo,) = hub.repos
    assert repo.is_private
    assert set(repo.newest) == {*contents(mine), "README.md", ".gitattributes"}
    assert cli("pull", NAME, "--name", "theirs").returncode == 0
    assert contents(home / "theirs") == contents(mine)
    assert "holds a bundle already" in cli.fails("push", str(mine), NAME, "--license", "mit")


def test_the_card_says_what_it_is(send, mine: Path, tmp_path: Path) -> None:
    bundle = open_bundle(mine)
    exam = {"count": 6, "overall": 0.5, "standard_error": 0.2, "groups": {"counting": 0.25}}
    record = {"schema": "shapes/2", "bundle_sha256": bundle.sha256, "strict": exam}
    record |= {"command": "janus-edge eval shapes", "commit": "abc"}
    other = record | {"bundle_sha256": "0" * 64, "strict": exam | {"overall": 0.9}}
    scores, text = tmp_path / "scores.jsonl", tmp_path / "LICENSE.txt"
    scores.write_text("\n".join(map(json.dumps, (record, other))) + "\n", encoding="utf-8")
    text.write_text("Do what you like.", encoding="utf-8")
    files = send(scores=scores, base_model="tests/base", license_file=text)
    head, _, body = card_of(files).removeprefix("---\n").partition("\n---\n")
    keys = dict(line.split(": ", 1) for line in head.splitlines())
    assert keys["license"] == '"mit"' and keys["base_model"] == '"tests/base"'
    assert is_pushed(card_of(files)) and f"janus-edge pull {NAME}" in body and bundle.sha256 in body
    assert "| drawing, strictly judged | 0.500 | 0.200 | 6 | counting 0.25 |" in body
    assert "0.9" not in body.partition("## Scores")[2]
    assert files["LICENSE"] == b"Do what you like."
    scores.write_text(json.dumps(other) + "\n", encoding="utf-8")
    assert "no record of this bundle; run: " in line_of(
        OptionError, send, scores=scores, replace=True
    )


@pytest.mark.parametrize("raw", ["", "{", "[]", '{"bundle_sha256": 1}', "3"])
def test_scores_that_are_none(send, tmp_path: Path, raw: str) -> None:
    (tmp_path / "scores").write_text(raw, encoding="utf-8")
    assert "--scores" in line_of(OptionError, send, scores=tmp_path / "scores")


def test_the_licence_is_never_guessed(send, mine: Path, hub: Hub) -> None:
    assert "--license" in line_of(OptionError, send, license=None)
    assert not hub.repos
    seal(mine, lambda manifest: manifest.update(source="deepseek-ai/Janus-Pro-1B@c0ffee"))
    lines: list[str] = []
    text = card_of(send(license=None, report=lines.append))
    assert "deepseek-model-license" in text and "commit `c0ffee`" in text
    assert "--license-file" in lines[0]
    shipped = card_of(send(SHIPPED / "tiny-janus", "tests/tiny", license=None))
    assert 'license: "apache-2.0"' in shipped


def test_a_bundle_is_replaced_when_asked(send, mine: Path, hub: Hub) -> None:
    send()
    (repo,) = hub.repos
    repo.commit("main", repo.newest | {"notes.txt": b"mine", "README.md": b"# My own card"})

    def rename(manifest: dict) -> None:
        part = manifest["components"]["decoder"]
        (mine / part["file"]).rename(mine / "new.onnx")
        part["file"] = "new.onnx"

    seal(mine, rename)
    before, lines = dict(repo.newest), []
    assert "holds a bundle already; push with --replace" in line_of(OutputError, send)
    assert repo.newest == before
    files = send(replace=True, report=lines.append)
    assert files["notes.txt"] == b"mine" and files["README.md"] == b"# My own card"
    assert any("README.md stays" in line for line in lines)
    assert "decoder.onnx" not in files and {*contents(mine)} < {*files}


def test_a_card_that_was_changed_stays(send, hub: Hub) -> None:
    card = send()["README.md"]
    (repo,) = hub.repos
    assert send(replace=True)["README.md"] == card  # unchanged: written again
    repo.commit("main", repo.newest | {"README.md": card + b"\n## My notes\n"})
    lines: list[str] = []
    assert send(replace=True, report=lines.append)["README.md"].endswith(b"## My notes\n")
    assert any("README.md stays" in line for line in lines)


def test_a_licence_of_somebody_else_stays(send, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "mine").with_suffix(".txt").write_text("ours", encoding="utf-8")
    text = (tmp_path / "mine").with_suffix(".txt")
    send(license_file=text)
    send(license_file=text, replace=True)  # the same again
    (repo,) = hub.repos
    repo.commit("main", repo.newest | {"LICENSE": b"theirs"})
    assert "holds a LICENSE" in line_of(OutputError, send, license_file=text, replace=True)
    assert send(replace=True)["LICENSE"] == b"theirs"


def test_nothing_becomes_public_unseen(send, hub: Hub) -> None:
    send()
    assert "is public" in line_of(PushError, send, is_private=True, replace=True)
    send(repo="tests/hidden", is_private=True)
    send(repo="tests/hidden", is_private=True, replace=True)


def test_nothing_that_no_push_made_is_replaced(send, hub: Hub) -> None:
    repo = hub.add(NAME, {"tokenizer.json": b"{}", "config.json": b"{}"})
    for replace in (False, True):
        line = line_of(OutputError, send, replace=replace)
        assert "holds a tokenizer.json that is no part of a bundle" in line
    assert repo.newest == {"tokenizer.json": b"{}", "config.json": b"{}"}


def test_somebody_else_was_faster(send, hub: Hub) -> None:
    hub.moved = {"other.txt": b"x"}
    assert "changed it meanwhile; push again" in line_of(PushError, send)
    assert set(hub.repos[0].newest) == {".gitattributes", "other.txt"}


@pytest.mark.parametrize(
    ("options", "raises", "says"),
    [
        ({"repo": "a/b/c"}, PushError, "not a repository's name"),
        ({"repo": "mine"}, PushError, "give it as owner/name"),
        ({"license": ""}, OptionError, "--license ''"),
        ({"license": "no such"}, OptionError, "as apache-2.0"),
        ({"base_model": "x"}, OptionError, "owner/name"),
        ({"endpoint": "http://127.0.0.1:9"}, PushError, "http://127.0.0.1:9: "),
        ({"license_file": Path("none")}, OutputError, "--license-file none: "),
        ({"scores": Path("none")}, OptionError, "--scores none: "),
    ],
)
def test_what_cannot_be_pushed(
    send, options: dict[str, object], raises: type[JanusEdgeError], says: str
) -> None:
    assert says in line_of(raises, send, **options)


def test_a_token_that_may_not_write(send, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_reads")
    assert "set HF_TOKEN to a token that may write" in line_of(PushError, send)


def test_offline(send, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in line_of(PushError, send)
