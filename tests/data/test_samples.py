"""What samples say, which are broken and why, and that webdataset reads the same."""

from __future__ import annotations

import io
import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from janus_edge.data.content import Exchange, parse
from janus_edge.data.errors import BrokenSample, DataError
from janus_edge.data.index import _kept_at, index_of, read_index
from janus_edge.data.samples import Shards
from tests.data.shards import as_json, captioned, image_file, noise, texts, write_tar

TURNS = [{"user": "what?", "assistant": "red"}, {"user": "sure?", "assistant": "yes"}]
LLAVA = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "red"}]


def one(tmp_path: Path, **members: bytes) -> Shards:
    """Shards of one sample; a member's name is its extension."""
    named = [(f"k.{name.replace('_', '.')}", raw) for name, raw in members.items()]
    return Shards([write_tar(tmp_path / "a.tar", named)])


@pytest.mark.parametrize(
    ("members", "kind", "said"),
    [
        ({"png": image_file(), "txt": b"\xef\xbb\xbf a star \n"}, "caption", ("a star",)),
        ({"JPG": noise(), "json": as_json(caption="a star", url="x")}, "caption", ("a star",)),
        (
            {"webp": image_file(kind="WEBP"), "json": as_json(captions=["a", "b"])},
            "caption",
            ("a", "b"),
        ),
        ({"png": image_file(), "json": as_json(text="a star")}, "caption", ("a star",)),
        ({"png": image_file(), "json": as_json(url="x"), "txt": b"t"}, "caption", ("t",)),
        ({"png": image_file(), "json": as_json(caption="j"), "txt": b"t"}, "caption", ("j",)),
        ({"txt": "plain \u2605".encode()}, "text", "plain \u2605"),
        ({"json": as_json(text="plain", caption=None)}, "text", "plain"),
        ({"png": image_file(), "json": as_json(turns=TURNS)}, "conversation", ("what?", "sure?")),
        (
            {"png": image_file(), "json": as_json(question="what?", answer="red")},
            "conversation",
            ("what?",),
        ),
        ({"png": image_file(), "json": as_json(conversations=LLAVA)}, "conversation", ("what?",)),
        ({"json": as_json(turns=TURNS)}, "conversation", ("what?", "sure?")),
    ],
)
def test_what_a_sample_says(tmp_path: Path, members: dict[str, bytes], kind: str, said) -> None:
    shards = one(tmp_path, **members)
    sample = shards.sample(0)
    assert (sample.kind, sample.key, sample.shard) == (kind, "k", str(tmp_path / "a.tar"))
    assert said == (sample.captions or tuple(turn.user for turn in sample.turns) or sample.text)
    assert sample.has_image == any("txt" not in name and name != "json" for name in members)
    if sample.has_image:
        assert shards.image(0).dtype == np.uint8 and shards.image(0).shape[2] == 3


BOXES = [{"label": "star", "box": [1, 2.5, 3, 4]}, {"label": "hat", "box": [-1, 0, 9, 9]}]


@pytest.mark.parametrize(
    "words",
    [
        {"json": {"captions": ["a star"]}},
        {"json": {"turns": TURNS}},
        {"json": {"text": "a star"}},
        {"json": {}, "txt": b"a star"},
    ],
)
def test_labelled_boxes(tmp_path: Path, words: dict) -> None:
    said = words | {"json": as_json(labelled_boxes=BOXES, **words["json"])}
    sample = one(tmp_path, png=image_file(), **said).sample(0)
    assert [(b.label, b.box) for b in sample.boxes] == [
        ("star", (1, 2.5, 3, 4)),
        ("hat", (-1, 0, 9, 9)),
    ]
    again = parse(sample.document(), has_image=True)
    assert again.boxes == sample.boxes and again.kind == sample.kind


@pytest.mark.parametrize("boxes", [None, []])
def test_no_boxes(tmp_path: Path, boxes: list | None) -> None:
    shards = one(tmp_path, png=image_file(), json=as_json(caption="a", labelled_boxes=boxes))
    assert shards.sample(0).boxes == () and "labelled_boxes" not in shards.sample(0).document()


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ("star", "labelled_boxes are no list of"),
        ({"label": "star"}, "labelled_boxes are no list of"),
        ([1], "labelled_boxes are no list of"),
        ([{"box": [0, 0, 1, 1]}], r"no label of labelled_boxes\[0\]"),
        ([{"label": " ", "box": [0, 0, 1, 1]}], "empty label"),
        ([{"label": "a"}], r"labelled_boxes\[0\]: box is not \[x, y, width, height\]"),
        ([{"label": "a", "box": [0, 0, 1]}], "box is not"),
        ([{"label": "a", "box": [0, 0, 1, 0]}], "with sides above 0"),
        ([{"label": "a", "box": [0, 0, -1, 1]}], "with sides above 0"),
        ([{"label": "a", "box": [0, 0, "1", 1]}], "box is not"),
        ([{"label": "a", "box": [True, 0, 1, 1]}], "box is not"),
        ([{"label": "a", "box": [0, 0, 1e300, 1]}], "box is not"),
    ],
)
def test_boxes_that_are_broken(tmp_path: Path, boxes: object, reason: str) -> None:
    shards = one(tmp_path, png=image_file(), json=as_json(caption="a", labelled_boxes=boxes))
    with pytest.raises(BrokenSample, match=reason):
        shards.sample(0)
    with pytest.raises(BrokenSample, match=r"labelled_boxes (without|are no)"):
        one(tmp_path, json=as_json(text="a", labelled_boxes=boxes)).sample(0)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"png": image_file()}, "no .txt or .json"),
        ({"png": image_file(), "txt": b" \n"}, "empty caption"),
        ({"txt": b""}, "empty text"),
        ({"txt": b"caf\xe9"}, "not UTF-8"),
        ({"json": b'{"text": "caf\xe9"}'}, "not UTF-8"),
        ({"json": b'{"text": "\\ud800"}'}, "text is not UTF-8"),
        ({"json": b"{'text': 1}"}, "not JSON"),
        ({"json": b"[" * 100_000}, "not JSON"),
        ({"json": b"[1]"}, "not a JSON object"),
        ({"json": as_json(text=5)}, "text is no text"),
        ({"json": as_json(other=5)}, "no caption, turns or text"),
        ({"json": as_json(caption="a star")}, "a caption without an image"),
        ({"png": image_file(), "json": as_json(captions=["a", " "])}, "empty caption"),
        ({"png": image_file(), "json": as_json(captions=[])}, "empty captions"),
        ({"png": image_file(), "json": as_json(turns=[])}, "turns are no list, or empty"),
        ({"png": image_file(), "json": as_json(turns=[1])}, "a turn that is no object"),
        ({"png": image_file(), "json": as_json(turns=[{"user": "q"}])}, "no assistant"),
        ({"png": image_file(), "json": as_json(question="q")}, "no answer"),
        ({"png": image_file(), "json": as_json(conversations=LLAVA[::-1])}, "a turn of 'gpt'"),
        ({"json": as_json(conversations=LLAVA)}, "<image> stands 1 times, with 0 image"),
        ({"png": image_file(), "json": as_json(conversations=LLAVA * 2)}, "<image> stands 2 times"),
        ({"png": image_file(), "json": as_json(conversations=LLAVA[:1])}, "conversations are no"),
        ({"seg_png": image_file(), "cls": b"3"}, "no .txt or .json"),
    ],
)
def test_a_sample_that_says_nothing(tmp_path: Path, members: dict[str, bytes], reason: str) -> None:
    with pytest.raises(BrokenSample) as caught:
        one(tmp_path, **members).sample(0)
    assert caught.value.name == f"{tmp_path}/a.tar/k" and reason in caught.value.reason
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def _bomb() -> bytes:
    """The head of a PNG of 10^10 pixels."""
    raw = bytearray(image_file())
    raw[16:24] = (100_000).to_bytes(4, "big") * 2
    return bytes(raw)


@pytest.mark.parametrize(
    "raw",
    [
        noise()[:-400],
        noise()[:200],
        image_file()[:-30],
        b"",
        b"hello",
        _bomb(),
        b"GIF89a" + b"\0" * 20,
    ],
)
def test_a_broken_image(tmp_path: Path, raw: bytes) -> None:
    """Also one that the runtime would show with grey rows; a warning's filter does not matter."""
    shards = one(tmp_path, jpg=raw, txt=b"a star")
    assert shards.sample(0).captions == ("a star",)
    with warnings.catch_warnings(), pytest.raises(BrokenSample, match=r"a\.tar/k: "):
        warnings.simplefilter("ignore")
        shards.image(0)


def test_an_image_is_upright_and_opaque(tmp_path: Path) -> None:
    turned, clear = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(turned, format="JPEG", exif=exif)
    Image.new("RGBA", (5, 5), (0, 0, 0, 0)).save(clear, format="PNG")
    shards = Shards(
        [
            write_tar(
                tmp_path / "a.tar",
                [("a.jpg", turned.getvalue()), ("b.png", clear.getvalue())],
            )
        ]
    )
    assert shards.image(0).shape == (40, 30, 3)
    assert (shards.image(1) == 255).all() and shards.image_bytes(1) == clear.getvalue()


def test_other_content_of_the_same_size_is_other_data(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
    files = []
    for rows in (noise, noise[::-1]):
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(rows)).save(file, "PNG", compress_level=0)
        files.append(file.getvalue())
    assert len(files[0]) == len(files[1]) > 20_000
    found = []
    for name, raw in (("a", files[0]), ("b", files[1]), ("c", files[0])):
        (tmp_path / name).mkdir()
        members = [("0.png", raw), ("0.txt", b"a star")]
        found.append(Shards([write_tar(tmp_path / name / "0.tar", members)]).digest)
    assert found[0] == found[2] != found[1]


def test_odd_names(tmp_path: Path) -> None:
    """Names are parted as webdataset parts them: at the first dot behind the last slash."""
    long = "n" * 120
    names = ["a b", "ü★", "dir/x", "./y", long, "caf\udce9", "line\nbreak"]
    members = [(f"{name}.txt", b"t") for name in names]
    members += [("x.y.txt", b"t"), ("__meta__/a.txt", b"t"), (".hidden", b"t"), ("none", b"t")]
    shards = Shards([write_tar(tmp_path / "a.tar", members)])
    assert [shards.sample(i).key for i in range(len(names))] == names
    with pytest.raises(BrokenSample, match="x: no"):  # its extension is y.txt
        shards.sample(len(names))
    assert len(shards) == len(names) + 1


def test_duplicates(tmp_path: Path) -> None:
    members = [("a.txt", b"1"), ("a.txt", b"2"), ("b.txt", b"3"), ("c.txt", b"4"), ("b.txt", b"5")]
    members += [("d.png", image_file()), ("d.jpg", noise()), ("d.txt", b"t")]
    shards = Shards([write_tar(tmp_path / "a.tar", members)])
    good, reasons = [], []
    for i in range(len(shards)):
        try:
            good.append(shards.sample(i).text)
        except BrokenSample as error:
            reasons.append(error.reason)
    assert good == ["3", "4"]
    assert reasons[0].startswith("two members") and reasons[1].startswith("an earlier sample")
    with pytest.raises(BrokenSample, match="two members of a kind, the second d"):
        shards.image(4)


@pytest.mark.parametrize("keep", [700, 1536 + 100, 1536 * 10 + 700, 1536 * 19 + 1400])
def test_a_shard_that_is_cut(tmp_path: Path, keep: int) -> None:
    """What is whole is read; the shard is named."""
    path = texts(tmp_path / "a.tar", [f"text {k} " + "x" * 900 for k in range(20)])
    raw = path.read_bytes()
    path.write_bytes(raw[:keep])
    shards = Shards([path])
    assert shards.damage[str(path)].startswith("cut")
    whole = keep // 1536
    assert [shards.sample(i).text[:7] for i in range(whole)] == [
        f"text {i} "[:7] for i in range(whole)
    ]
    for i in range(whole, len(shards)):
        with pytest.raises(BrokenSample, match="ends in its middle"):
            shards.sample(i)


def test_cut_between_members_and_damaged(tmp_path: Path) -> None:
    path = texts(tmp_path / "a.tar", ["a", "b", "c"])
    raw = path.read_bytes()
    path.write_bytes(raw[: 3 * 1024])
    assert "cut behind 0002.txt" in Shards([path]).damage[str(path)]
    path.write_bytes(raw[:2048] + b"\xff" * 512 + raw[2560:])
    shards = Shards([path])
    assert len(shards) == 2 and "damaged" in shards.damage[str(path)]
    assert Shards([texts(tmp_path / "b.tar", ["a"])]).damage == {}


@pytest.mark.parametrize(
    "size",
    [
        b"\xff" * 10 + b"\xf8\x00",  # -2048 in base 256: Python's reader would never end
        b"\x80" + b"\xff" * 11,  # 2^88 - 1: no number of an index
    ],
)
def test_a_header_with_an_impossible_size(tmp_path: Path, size: bytes) -> None:
    path = texts(tmp_path / "a.tar", ["a", "b"])
    raw = bytearray(path.read_bytes())
    raw[1024 + 124 : 1024 + 136] = size
    raw[1024 + 148 : 1024 + 156] = b" " * 8
    total = sum(raw[1024:1536])
    raw[1024 + 148 : 1024 + 156] = b"%06o\0 " % total
    path.write_bytes(raw)
    found = read_index(path)
    assert "damaged" in found.damage and len(found) == 1


@pytest.mark.parametrize("at", range(0, 1500, 61))
def test_a_damaged_index_is_made_again(tmp_path: Path, at: int) -> None:
    """Whatever the damaged zip raises: a flipped bit may name another compression."""
    path = texts(tmp_path / "a.tar", ["a", "b"])
    before = index_of(path).content
    kept = _kept_at(path)
    raw = bytearray(kept.read_bytes())
    for bit in range(8):
        raw[at % len(raw)] ^= 1 << bit
        kept.write_bytes(raw)
        assert index_of(path).content == before


@pytest.mark.parametrize("head", [b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"])
def test_a_compressed_shard_is_refused(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(head + b"\0" * 600)
    with pytest.raises(DataError, match=r"compressed tar.*unpack it with"):
        Shards([tmp_path])


def test_what_holds_no_samples(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no shards"):
        Shards([tmp_path])
    with pytest.raises(DataError, match="no such shard"):
        Shards([tmp_path / "none"])
    (tmp_path / "b.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match="unpack it to a "):
        Shards([tmp_path])
    for raw in (b"", b"x", b"\0" * 10240, b"x" * 5000):
        (tmp_path / "a.tar").write_bytes(raw)
        with pytest.raises(DataError, match="give WebDataset shards"):
            Shards([tmp_path / "a.tar"])


def test_the_index_is_kept_and_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JANUS_EDGE_HOME", str(tmp_path / "home"))
    path = captioned(tmp_path / "data" / "a.tar", 3)
    first = Shards([path])
    (kept,) = (tmp_path / "home" / "shards").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("janus_edge.data.index.read_index", lambda path: pytest.fail("read again"))
        assert Shards([path]).digest == first.digest
    for raw in (b"", kept.read_bytes()[:300], b"PK\3\4"):
        kept.write_bytes(raw)
        assert Shards([path]).sample(2).captions == ("2",)
    captioned(path, 5)
    second = Shards([path])
    assert len(second) == 5 and second.digest != first.digest
    with pytest.raises(BrokenSample, match="changed since"):
        first.sample(0)
    assert [each.name for each in path.parent.iterdir()] == ["a.tar"]
    path.unlink()
    with pytest.raises(BrokenSample, match="cannot be read"):
        second.sample(0)


def test_a_copy_has_the_same_digest(tmp_path: Path) -> None:
    for name in ("one", "two"):
        captioned(tmp_path / name / "a.tar", 2)
        captioned(tmp_path / name / "b.tar", 3, first=2)
    one, two = (Shards([tmp_path / name]) for name in ("one", "two"))
    assert one.digest == two.digest and [one.sample(i).captions[0] for i in range(5)] == list(
        "01234"
    )
    assert one.name(4) == f"{tmp_path}/one/b.tar/0004"
    with pytest.raises(IndexError):
        one.sample(5)
    assert pickle.loads(pickle.dumps(one)).sample(3) == one.sample(3)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # it leaves files open
def test_webdataset_reads_the_same_and_we_read_theirs(tmp_path: Path) -> None:
    import webdataset

    ours = captioned(tmp_path / "ours.tar", 4)
    shards = Shards([ours])
    theirs = list(webdataset.WebDataset(str(ours), shardshuffle=False))
    assert [each["__key__"] for each in theirs] == [shards.sample(i).key for i in range(4)]
    assert [each["png"] for each in theirs] == [shards.image_bytes(i) for i in range(4)]
    with webdataset.ShardWriter(str(tmp_path / "w-%03d.tar"), maxcount=3, verbose=0) as writer:
        for k in range(5):
            writer.write({"__key__": f"a/{k}", "jpg": noise(), "json": {"turns": TURNS}})
    read = Shards([tmp_path / "w-000.tar", tmp_path / "w-001.tar"])
    assert len(read) == 5 and read.damage == {} and read.sample(4).key == "a/4"
    assert read.sample(0).turns == tuple(Exchange(**turn) for turn in TURNS)
    assert read.image(0).shape == (64, 64, 3) and json.dumps(read.digest)
