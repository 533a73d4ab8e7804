"""``janus-edge data``: what it builds from folders and files, what it refuses, what it checks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from janus_edge.data.build import Built, build_shards
from janus_edge.data.errors import DataError
from janus_edge.data.samples import MOST_TEXT, Shards
from janus_edge.data.shard_writer import _Sink
from janus_edge.runtime.errors import OptionError, OutputError
from tests.data.shards import captioned, image_file, noise, texts, write_tar

LLAVA = [
    {
        "id": 1,
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "<image>\nwhat?"},
            {"from": "gpt", "value": "red"},
            {"from": "human", "value": "sure?"},
            {"from": "gpt", "value": "yes"},
        ],
    },
    {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with images."""
    source = tmp_path / "source"
    (source / "deep er").mkdir(parents=True)
    for name in ("a.png", "b c.png", "x.y.png", "deep er/ü★.png"):
        (source / name).write_bytes(image_file())
    (source / "n.JPG").write_bytes(noise())
    return source


def said(built: Built) -> list[Any]:
    """What all samples say, in order."""
    shards = Shards([built.folder])
    samples = [shards.sample(i) for i in range(len(shards))]
    assert all(shards.image(i).size for i, sample in enumerate(samples) if sample.has_image)
    return [[(t.user, t.assistant) for t in s.turns] or s.text or s.captions for s in samples]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_folder(folder: Path, tmp_path: Path) -> None:
    for stem in ("a", "b c", "x.y", "deep er/ü★", "n"):
        write(folder / f"{stem}.txt", f"about {stem}")
    write(folder / "readme.md", "no row")
    write(folder / ".DS_Store", "no row")
    write(folder / "alone.png", image_file())
    built = build_shards(folder, tmp_path / "out", samples_per_shard=2)
    assert said(built) == [(f"about {stem}",) for stem in ("a", "b c", "n", "x.y", "deep er/ü★")]
    assert built.role == "generation" and sorted(built.shards) == [f"{k:06d}.tar" for k in range(3)]
    assert built.skipped == [("alone.png", "no .txt or .json of its name beside it")]
    lines = (built.folder / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0])["name"] == "alone.png"
    shards = Shards([built.folder])
    assert shards.image_bytes(2) == (folder / "n.JPG").read_bytes()
    again = build_shards(folder, folder / "out", samples_per_shard=2)
    assert build_shards(folder, folder / "out", replace=True).skipped == built.skipped
    again = build_shards(folder, folder / "out", replace=True, samples_per_shard=2)
    for name in built.shards:
        assert (again.folder / name).read_bytes() == (built.folder / name).read_bytes()


def test_a_csv(folder: Path, tmp_path: Path) -> None:
    """With a byte order mark, quoted line breaks, empty lines, and every kind of broken row."""
    rows = [
        "\ufeffImage, Caption ,extra",
        'a.png,"two\nlines, ""quoted""",1',
        "",
        "b c.png,more,2",
        "none.png,x,3",
        "a.png,,4",
        "a.png,x",
        'a.png,"opens',
        'a.png,"closes",7',
        "deep er/ü★.png,ok,5",
        "a.png,fine,6",
        "x.y.png,fine,7",
    ]
    source = write(folder / "rows.csv", "\r\n".join(rows).encode() + b"\r\na.png,caf\xe9,8\r\n")
    built = build_shards(source, tmp_path / "out")
    lines = ('two\nlines, "quoted"',), ("more",), ("ok",), ("fine",), ("fine",)
    assert said(built) == list(lines)
    found = dict(built.skipped)
    assert list(found) == [f"rows.csv:{line}" for line in (6, 7, 8, 9, 14)]
    words = "No such file", "no caption", "2 cells under 3 columns", "not CSV", "caption is not UTF"
    assert all(word in why for word, why in zip(words, found.values(), strict=True))


def test_questions_in_a_csv(folder: Path, tmp_path: Path) -> None:
    source = write(folder / "rows.csv", "image,question,answer\na.png,what?,red\n")
    built = build_shards(source, tmp_path / "out")
    assert (built.role, said(built)) == ("understanding", [[("what?", "red")]])


def test_a_jsonl(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"image": "a.png", "caption": "one"},
        {"image": str(folder / "b c.png"), "captions": ["two", "zwei"]},
        {"file_name": "a.png", "text": "three"},
        {"image": ["a.png"], "caption": "four"},
        {"image": "a.png", "turns": [{"user": "q", "assistant": "a"}]},
        {"text": "plain"},
        {"images": [], "text": "none"},
        {"image": ["a.png", "b c.png"], "caption": "five"},
        {"images": ["a.png", "b c.png"], "question": "which?", "answer": "both"},
        {"image": "https://example.com/a.png", "caption": "six"},
        {"image": "rows.gif", "caption": "seven"},
        {"image": "cut.jpg", "caption": "eight"},
    ]
    write(folder / "cut.jpg", noise()[:-400])
    text = "\n\n".join(json.dumps(row) for row in rows) + '\n{"caption":\n'
    source = write(folder / "rows.jsonl", text)
    built = build_shards(source, tmp_path / "out", role="generation")
    assert said(built) == [("one",), ("two", "zwei"), ("three",), ("four",)]
    assert built.num_others == 3
    reasons = [why for _, why in built.skipped]
    words = ["several images", "several images", "an address", "no .png", "cut short", "not JSON"]
    assert all(word in why for word, why in zip(words, reasons, strict=True)), reasons
    assert said(build_shards(source, tmp_path / "out", role="text")) == ["plain", "none"]


def test_no_text_is_longer_than_what_is_read(tmp_path: Path) -> None:
    rows = [{"text": "가" * (MOST_TEXT // 3)}, {"text": "가" * (MOST_TEXT // 3 - 100)}]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    built = build_shards(source, tmp_path / "out", role="text")
    assert [len(text) for text in said(built)] == [MOST_TEXT // 3 - 100]
    ((name, why),) = built.skipped
    assert name == "rows.jsonl:1" and f"{MOST_TEXT} are the most" in why


def test_a_folder_that_cannot_be_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are not left out without a word."""
    scandir = os.scandir

    def refused(path: Any) -> Any:
        if str(path).endswith("deep er"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(DataError, match="deep er: Permission denied"):
        build_shards(folder, tmp_path / "out", role="generation")
    assert not (tmp_path / "out").exists()


def test_most_rows_choose_the_role(folder: Path, tmp_path: Path) -> None:
    """A stray text beside captioned images is no reason to build a text role of it alone."""
    for name in ("a", "b c", "x.y"):
        write(folder / f"{name}.txt", "a caption")
    write(folder / "README.txt", "photos of my cat")
    built = build_shards(folder, tmp_path / "out")
    assert (built.role, built.num_samples, built.num_others) == ("generation", 3, 1)


def test_images_that_are_not_read_are_named(folder: Path, tmp_path: Path) -> None:
    """Their captions are no texts of their own."""
    for name in ("a", "b c", "x.y", "IMG_1"):
        write(folder / f"{name}.txt", "a caption")
    write(folder / "IMG_1.heic", b"...")
    built = build_shards(folder, tmp_path / "out")
    assert (built.role, built.num_samples) == ("generation", 3)
    assert any(name == "IMG_1.heic" and "no .png" in why for name, why in built.skipped)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_llava(folder: Path, tmp_path: Path, name: str) -> None:
    lines = "\n".join(json.dumps(row) for row in LLAVA)
    source = write(folder / name, json.dumps(LLAVA) if name.endswith("json") else lines)
    built = build_shards(source, tmp_path / "out")
    assert (built.role, built.num_others) == ("understanding", 1)
    assert said(built) == [[("what?", "red"), ("sure?", "yes")]]
    assert said(build_shards(source, tmp_path / "out", role="text")) == [[("hi", "ho")]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz", "", "of no kind that is read"),
        ("a.csv", "", "names the columns none"),
        ("a.csv", "url,title\n1,2\n", "names the columns url, title"),
        ("a.csv", "image,caption,caption\n1,2,3\n", "names the column caption twice"),
        ("a.csv", "text\n", "no whole row"),
        ("a.csv", 'text\n"' + "x" * (2**24 + 1) + '"\n', "a.csv:2: a quote opens and never ends"),
        ("a.csv", 'text\nfine\n"open\nlost\n', "a.csv:3: a quote opens and never ends"),
        ("a.json", "{}", "not an array"),
        ("a.json", "[1, 2]", "no whole row, the first a.json[1]: not a JSON object"),
        ("a.json", "[", "not JSON"),
        ("a.jsonl", "", "no whole row"),
        ("a.jsonl", '{"text": "a"}\n1\n2\n', "2 of 3 rows are broken, the first a.jsonl:2"),
        ("a.jsonl", '{"text": "a"}\n', "none serves for generation: 1 rows serve in other roles"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    """Nothing is written, not even the folder."""
    source = write(tmp_path / name, content)
    role = "generation" if "serves" in message else None
    with pytest.raises(DataError) as caught:
        build_shards(source, tmp_path / "new" / "out", role=role)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert names(tmp_path) == [name]


def test_values_that_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError):
        build_shards(folder, tmp_path / "out", role="none")
    with pytest.raises(OptionError):
        build_shards(folder, tmp_path / "out", samples_per_shard=0)
    with pytest.raises(DataError, match="no such file or folder"):
        build_shards(tmp_path / "none", tmp_path / "out")


def test_only_our_shards_are_replaced(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", '{"text": "a"}')
    second = write(tmp_path / "b.jsonl", '{"text": "b"}')
    built = build_shards(first, tmp_path)
    with pytest.raises(OutputError, match="add --replace"):
        build_shards(second, tmp_path)
    write(built.folder / "mine.txt", "x")
    with pytest.raises(OutputError, match="as it holds mine"):
        build_shards(second, tmp_path, replace=True)
    (built.folder / "mine.txt").unlink()
    assert said(build_shards(second, tmp_path, replace=True)) == ["b"]
    (built.folder / "shards.json").unlink()
    with pytest.raises(OutputError, match="not of janus-edge"):
        build_shards(first, tmp_path, replace=True)
    assert said(built) == ["b"] and names(tmp_path) == ["a.jsonl", "b.jsonl", "text"]
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "text").symlink_to(tmp_path / "elsewhere")
    build_shards(first, tmp_path / "linked")
    assert (tmp_path / "linked" / "text").is_symlink()
    assert said(build_shards(second, tmp_path / "linked", replace=True)) == ["b"]


@pytest.mark.parametrize("buffering", [0, 65536])
def test_a_disk_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffering: int
) -> None:
    """The error is one line, and webdataset's writer is quiet when it is collected."""
    source = write(tmp_path / "a.jsonl", '{"text": "a"}\n' * 30)

    def full(self: _Sink, path: Path) -> None:
        self.file = Path("/dev/full").open("wb", buffering=buffering)  # noqa: SIM115

    monkeypatch.setattr(_Sink, "__init__", full)
    with pytest.raises(OutputError, match="No space left on device; make room"):
        build_shards(source, tmp_path / "out")
    assert names(tmp_path) == ["a.jsonl"]


def test_the_commands(cli, folder: Path, tmp_path: Path) -> None:
    rows = "".join(f'{{"image": "a.png", "caption": "{k}"}}\n' for k in range(40))
    source = write(folder / "rows.jsonl", rows + "x\n" * 25)
    done = cli("data", "build", source, tmp_path / "D", "--samples-per-shard", "30")
    assert done.returncode == 0 and done.stdout.count("not JSON") == 20
    assert done.stdout.splitlines()[-2:] == [
        "  and 5 more",
        f"{tmp_path}/D/generation: 40 samples in 2 shards",
    ]
    assert "add --replace" in cli.fails("data", "build", source, tmp_path / "D")
    texts(tmp_path / "D" / "text" / "a.tar", ["a" * n for n in range(1, 11)])
    done = cli("data", "check", tmp_path / "D")
    assert done.stdout.splitlines() == [
        "generation: 40 samples in 2 shards: 40 caption",
        "  images      40x30 to 40x30 px",
        "  characters  0% 1, 50% 2, 90% 2, 99% 2, 100% 2",
        "text: 10 samples in 1 shard: 10 text",
        "  characters  0% 1, 50% 5, 90% 9, 99% 10, 100% 10",
    ]


def test_check_names_what_is_broken(cli, tmp_path: Path) -> None:
    captioned(tmp_path / "a.tar", 3)
    members = [("x.jpg", noise()[:-400]), ("x.txt", b"t"), ("y.png", image_file())]
    path = write_tar(tmp_path / "b.tar", members)
    raw = path.read_bytes()
    path.write_bytes(raw[: raw.index(image_file()) + 40])
    done = cli("data", "check", tmp_path, "--json")
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path}: 3 broken of 5 samples; a training skips them\n"
    found = json.loads(done.stdout)["roles"]["shards"]
    assert (found["samples"], found["shards"], found["kinds"]) == (5, 2, {"caption": 3})
    assert found["with_boxes"] == 0
    assert [name.removeprefix(f"{tmp_path}/") for name in found["broken"]] == [
        "b.tar",
        "b.tar/x",
        "b.tar/y",
    ]
    assert "no such shard or folder" in cli.fails("data", "check", tmp_path / "none")


def test_show(cli, tmp_path: Path) -> None:
    captioned(tmp_path / "generation" / "a.tar", 3)
    members = [
        ("x.png", image_file("blue", (10, 40))),
        ("x.json", b'{"question": "q", "answer": "a"}'),
    ]
    write_tar(tmp_path / "understanding" / "a.tar", [*members, ("y.png", b"no"), ("y.txt", b"t")])
    texts(tmp_path / "text" / "a.tar", ["one\ntwo", ""])
    done = cli("data", "show", tmp_path, "-n", "2", "-o", tmp_path / "sheet.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.removeprefix(f"{tmp_path}/") for line in done.stdout.splitlines()] == [
        "generation/a.tar/0000: caption: 0",
        "generation/a.tar/0001: caption: 1",
        "text/a.tar/0000: text: one two",
        "text/a.tar/0001: broken: empty text",
        "understanding/a.tar/x: conversation: q → a",
        "understanding/a.tar/y: broken: not an image that can be read",
        "sheet.png: 3 images",
    ]
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert pixels.shape == (192, 3 * 192, 3)
    assert (pixels[:, :384] == (255, 0, 0)).all() and tuple(pixels[96, 480]) == (0, 0, 255)
    assert tuple(pixels[96, 390]) == (127, 127, 127)
    drawn = [("z.png", image_file("green", (10, 40))), ("z.txt", b"cat")]
    write_tar(tmp_path / "classes" / "class_prompts" / "a.tar", drawn)
    cli("data", "show", tmp_path / "classes", "-o", tmp_path / "classes.png")
    with Image.open(tmp_path / "classes.png") as sheet:
        assert (np.asarray(sheet.convert("RGB")) == (0, 128, 0)).all()  # cropped: nothing is grey
    done = cli("data", "show", tmp_path / "text")
    assert len(done.stdout.splitlines()) == 2
    message = cli.fails("data", "show", tmp_path / "text", "-o", tmp_path / "s.png")
    assert "no image to draw" in message
