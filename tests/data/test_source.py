"""Sources by role."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus_edge.data.errors import DataError
from janus_edge.data.source import open_source
from tests.data.shards import as_json, captioned, image_file, noise, texts, write_tar


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three roles; two samples of generation are broken, one in its text and one in its image."""
    captioned(tmp_path / "generation" / "a.tar", 20)
    members = [("bad.png", image_file()), ("bad.txt", b""), ("cut.jpg", noise()[:-400])]
    write_tar(tmp_path / "generation" / "b.tar", [*members, ("cut.txt", b"cut")])
    texts(tmp_path / "text" / "a.tar", [f"text {k}" for k in range(7)])
    turns = as_json(question="what?", answer="red")
    write_tar(tmp_path / "understanding/a.tar", [("a.png", image_file()), ("a.json", turns)])
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_a_folder_by_role(folder: Path) -> None:
    source = open_source(folder)
    assert {name: len(role) for name, role in source.roles.items()} == {
        "generation": 22,
        "text": 7,
        "understanding": 1,
    }
    captioned(folder / "generation" / "c.tar", 1)
    assert open_source(folder).digest != source.digest


def test_a_toml_file(folder: Path) -> None:
    (folder / "data.toml").write_text(
        'text = ["text", {path = "text/a.tar", repeat = 3}]\nvision = "generation/a.tar"\n',
        encoding="utf-8",
    )
    roles = open_source(folder / "data.toml").roles
    assert (len(roles["text"]), len(roles["text"].shards), len(roles["vision"])) == (28, 14, 20)
    assert [roles["text"].number(place) for place in (0, 6, 7, 13, 14, 21, 27)] == [
        0,
        6,
        7,
        13,
        7,
        7,
        13,
    ]
    said = [roles["text"].sample(roles["text"].number(place)).text for place in range(28)]
    assert all(said.count(f"text {k}") == 4 for k in range(7))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no role in it"),
        ("text = [", "not TOML"),
        ("text = []", "lists no shards"),
        ("text = [1]", "no list of paths"),
        ('text = [{path = "text", repeats = 2}]', "no list of paths"),
        ('text = [{path = "text", repeat = 0}]', "repeats text 0 times"),
        ('text = [{path = "text", repeat = true}]', "repeats text True times"),
        ('text = ["none"]', "no such shard or folder"),
        ('text = ["notes"]', "no shards"),
        ('text = ["generation"]', "an image where text needs none; no sample"),
        ('generation = ["understanding"]', "a conversation where generation needs"),
        ('generation = ["text"]', "a text where generation needs an image with a caption"),
        ('understanding = ["text"]', "without an image where understanding needs one"),
    ],
)
def test_a_toml_file_that_is_wrong(folder: Path, text: str, message: str) -> None:
    (folder / "data.toml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        open_source(folder / "data.toml")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_folders_that_are_wrong(tmp_path: Path) -> None:
    for path, message in (("none", "no such folder"), (".", "no folder of shards")):
        with pytest.raises(DataError, match=message):
            open_source(tmp_path / path)
    (tmp_path / "generation").mkdir()
    with pytest.raises(DataError, match="no shards"):
        open_source(tmp_path)


def test_a_cut_shard_is_named(folder: Path) -> None:
    path = folder / "text" / "a.tar"
    path.write_bytes(path.read_bytes()[:2048])
    role = open_source(folder).roles["text"]
    assert list(role.shards.damage) == [str(path)] and len(role) == 2
