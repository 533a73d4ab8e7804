"""Sources by role, and what a step trains on."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus_edge.data.errors import DataError
from janus_edge.data.mixture import Mixture
from janus_edge.data.source import Role, open_source
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
    found = Mixture(roles, seed=0).examples(0, "text", 0, 28)
    said = [roles["text"].sample(i).text for i in found]
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


def test_steps_do_not_depend_on_who_asks(folder: Path) -> None:
    """A step shared by processes, or asked for again, has the same examples."""
    roles = open_source(folder).roles
    one, other = Mixture(roles, seed=5), Mixture(roles, seed=5)
    whole = one.examples(3, "generation", 30, 60)
    parts = [other.examples(3, "generation", 30 + k, 1)[0] for k in reversed(range(60))]
    assert (
        whole == parts[::-1] and Mixture(roles, seed=6).examples(3, "generation", 30, 60) != whole
    )
    loaded = [example.index for example in one.loaded(3, "generation", 30, 60)]
    assert loaded == [each.index for each in other.loaded(3, "generation", 30, 60)]
    assert one.examples(3, "generation", 30, 60) == whole  # what has been met changes nothing


def test_broken_samples_are_replaced_and_named_once(folder: Path) -> None:
    mixture = Mixture(open_source(folder).roles, seed=0)
    texts_only = mixture.examples(0, "generation", 0, 44)
    bad, cut = (f"{folder}/generation/b.tar/{key}" for key in ("bad", "cut"))
    assert 20 not in texts_only and 21 in texts_only and set(range(20)) <= set(texts_only)
    assert mixture.skipped == {bad: "empty caption"}
    found = mixture.loaded(0, "generation", 0, 44)
    assert {each.index for each in found} == set(range(20))
    assert [each.sample.captions for each in found] == [(str(each.index),) for each in found]
    assert all(
        each.pixels_HWC is not None and each.pixels_HWC.shape == (30, 40, 3) for each in found
    )
    assert set(mixture.skipped) == {bad, cut} and "cut short" in mixture.skipped[cut]
    assert mixture.loaded(0, "text", 0, 1)[0].pixels_HWC is None


def test_data_that_is_broken_throughout(tmp_path: Path) -> None:
    members = [("a.jpg", noise()[:100]), ("a.txt", b"t"), ("b.jpg", b""), ("b.txt", b"t")]
    role = Role("generation", [(write_tar(tmp_path / "a.tar", members), 1)])
    mixture = Mixture({"generation": role}, seed=0)
    assert sorted(mixture.examples(0, "generation", 0, 2)) == [0, 1]
    with pytest.raises(DataError, match="step 9: role generation has 100 broken samples in a row"):
        mixture.loaded(9, "generation", 0, 1)
    with pytest.raises(DataError, match="role other: not in the data"):
        mixture.examples(0, "other", 0, 1)


def test_a_cut_shard_is_named_from_the_start(folder: Path) -> None:
    path = folder / "text" / "a.tar"
    path.write_bytes(path.read_bytes()[:2048])
    mixture = Mixture(open_source(folder).roles, seed=0)
    assert list(mixture.skipped) == [str(path)]
    assert set(mixture.examples(0, "text", 0, 10)) == {0, 1}
