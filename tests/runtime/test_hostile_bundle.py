"""Bundles whose hashes are right and whose content is not: one BundleError, as they are opened
where it can be seen then, else as the engine is opened."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from janus_edge.runtime import bundle as bundles
from janus_edge.runtime import limits
from janus_edge.runtime.bundle import SHIPPED, list_bundles, open_bundle
from janus_edge.runtime.errors import BundleError
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session
from tests.sealed import Change, copy_of, seal, seal_raw, write


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JANUS_EDGE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(params=["tiny-janus", "tiny-flow"])
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return copy_of(request.param, tmp_path / "copy")


@pytest.fixture
def janus(tmp_path: Path) -> Path:
    return copy_of("tiny-janus", tmp_path / "copy")


def refused(folder: Path, says: str) -> None:
    with pytest.raises(BundleError, match=says) as caught:
        open_bundle(folder)
    assert len(str(caught.value).splitlines()) == 1 and str(caught.value).isprintable()


def draw(folder: Path) -> None:
    list(Session(open_bundle(folder), num_threads=1).generate_image(ImageRequest(prompt="a star")))


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as made:
        made.bind(f"{short}/s")  # their names are short
        Path(short, "s").rename(path)


KINDS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "fifo": (_fifo, "Not a regular file"),
    "socket": (_socket, "Not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "Not a regular file"),
    "folder": (Path.mkdir, "Is a directory"),
    "dangling": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "loop": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
}
FILES = ("decoder.onnx", "text_embed.npy", "tokenizer.json", "tokenizer.bin", "manifest.sha256")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_are_read(janus: Path, name: str, kind: str) -> None:
    make, says = KINDS[kind]
    (janus / name).unlink()
    make(janus / name)
    refused(janus, rf"{name}: {says}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_that_is_no_file_is_no_bundle(janus: Path, kind: str) -> None:
    (janus / "manifest.json").unlink()
    KINDS[kind][0](janus / "manifest.json")
    refused(janus, r"no manifest\.json in this folder|no such bundle")


@pytest.mark.parametrize("kind", KINDS)
def test_a_note_that_is_no_file_does_not_matter(janus: Path, home: Path, kind: str) -> None:
    open_bundle(janus)
    (note,) = (home / "checked").iterdir()
    note.unlink()
    KINDS[kind][0](note)
    open_bundle(janus)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256", "tokenizer.json"])
def test_files_that_are_read_whole_have_a_limit(janus: Path, name: str) -> None:
    """A sparse file of a terabyte is refused by its size, unread."""
    write(janus, name, b"")
    os.truncate(janus / name, 2**40)
    refused(janus, rf"{name}: Larger than {limits.MOST_BYTES[name]} bytes")


def test_a_name_that_cannot_be_looked_up_is_no_bundle() -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        open_bundle("x" * 300)


def test_one_damaged_bundle_is_listed_and_the_others_too(home: Path) -> None:
    made = {name: copy_of("tiny-janus", home / "bundles" / name) for name in "abcdef"}
    damage = {
        "b": lambda folder: (folder / "decoder.onnx").unlink(),
        "c": lambda folder: KINDS["dangling"][0](folder / "extra"),
        "d": lambda folder: (folder / "manifest.json").unlink(),
        "e": lambda folder: (folder / "preview.npy").unlink(),
        "f": lambda folder: (folder / "manifest.json").unlink(),
    }
    for name, do in damage.items():
        do(made[name])
    KINDS["dangling"][0](made["b"] / "decoder.onnx")
    KINDS["dangling"][0](made["d"] / "manifest.json")
    (home / "bundles" / "no-folder").write_text("", encoding="utf-8")
    found = {each.name: each.family for each in list_bundles() if not each.is_shipped}
    assert found == {"a": "janus", "b": "damaged", "c": "janus", "d": "damaged", "e": "damaged"}


def _listed_by_nobody(closed: Path) -> bool:
    """Permissions mean nothing to root."""
    if os.getuid() == 0:
        os.setuid(65534)
    found = {each.name: each.family for each in list_bundles() if not each.is_shipped}
    try:
        open_bundle(closed)
    except BundleError:
        return found == {"mine": "damaged", "other": "janusflow"}
    return False


def test_a_folder_that_cannot_be_read_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as home:  # not below pytest's, which is closed to others
        monkeypatch.setenv("JANUS_EDGE_HOME", home)
        Path(home).chmod(0o755)
        closed = copy_of("tiny-janus", Path(home, "bundles/mine"))
        copy_of("tiny-flow", Path(home, "bundles/other"))
        closed.chmod(0)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if _listed_by_nobody(closed) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        closed.chmod(0o755)


# What is changed, and what the error says; native code refuses the same (tests/native).
SIZES: list[tuple[str, int]] = [
    *((name, most + 1) for name, most in limits.MOST_SIZES.items()),
    *((name, 2) for name in limits.MOST_SIZES),
    ("num_layers", 100_000),
    ("num_layers", 1024),
]


@pytest.mark.parametrize(("name", "value"), SIZES)
def test_sizes_must_be_those_of_the_files(copy: Path, name: str, value: int) -> None:
    has = json.loads((copy / "manifest.json").read_bytes())["sizes"]
    if name not in has:
        pytest.skip("not of this family")
    refused(seal(copy, lambda m: m["sizes"].update({name: value})), r"manifest\.json: |\.npy: ")


def _end(component: str, what: str, index: int, **values: Any) -> Change:
    return lambda m: m["components"][component][what][index].update(values)


CONTRACT: list[tuple[Change, str]] = [
    (_end("decoder", "inputs", 0, dtype="float16"), r"inputs\.embeds is float16\[R,T,256\], not"),
    (_end("decoder", "inputs", 4, dtype="float16"), r"past_v_0 is float16"),
    (_end("decoder", "inputs", 3, shape=["R", 4, "M", 32]), r"past_k_0 is float32\[R,4,M,32\]"),
    (_end("decoder", "inputs", 3, shape=["R", 4, 7, 64]), r"past_k_0"),
    (_end("decoder", "outputs", 0, name="hidden_"), r"outputs are not the 13"),
    (_end("text_head", "outputs", 0, shape=["R", 457]), r"logits is float32\[R,457\]"),
    (_end("preview_decoder", "inputs", 0, shape=["B", 63]), r"codes is int64\[B,63\], not"),
    (_end("vision_encoder", "outputs", 0, shape=["B", 64, 129]), r"vision_aligner\.inputs"),
    (_end("text_embed", "outputs", 0, shape=["R", 255]), r"text_embed\.outputs\.row"),
    (lambda m: m["components"]["decoder"]["inputs"].pop(), r"inputs are not the 15"),
    (lambda m: m["components"]["decoder"]["inputs"].reverse(), r"inputs are not the 15"),
    (lambda m: m["components"]["decoder"].pop("profile"), r"profile has no R"),
    (lambda m: m["components"]["decoder"]["profile"].update(R=[1, 2, 2000]), "more than 1024"),
    (lambda m: m["components"]["decoder"]["profile"].update(M=[1, 2, 99]), "max_length"),
    (lambda m: m["components"].update(extra=m["components"]["decoder"]), "extra is not known"),
    (lambda m: m["components"]["text_head"].update(backend="tensorrt"), "of one kind"),
    (lambda m: m["components"]["text_embed"].update(backend="onnxruntime"), "of one kind"),
    (lambda m: m["components"]["text_embed"].update(weights="int8"), "a table's are"),
    (lambda m: m["components"]["text_embed"].update(weights="float32"), "text_embed.npy"),
    (
        lambda m: m["components"]["decoder"].update(
            tensors={"a": {"dtype": "int4_tiles", "shape": [4, 4], "offset": 0}}
        ),
        "tensors are of no data",
    ),
    (lambda m: m.update(name="a\x1b[2Jb"), "name"),
    (lambda m: m.update(source="a\x1b[2Jb"), "source"),
    (lambda m: m.update(source=""), "source"),
    (lambda m: m["sampling"].update(guidance_scale=101), "guidance_scale"),
    (lambda m: m["sizes"].update(hidden_size="256"), "sizes.hidden_size"),
    (lambda m: m["sizes"].update(hidden_size=256.0), "sizes.hidden_size"),
    (lambda m: m["prompt"].update(user_role="x" * 5000), "user_role"),
]


@pytest.mark.parametrize("index", range(len(CONTRACT)))
def test_the_manifest_must_be_what_the_loops_need(janus: Path, index: int) -> None:
    change, says = CONTRACT[index]
    refused(seal(janus, change), says)


def test_keys_stand_there_once(janus: Path) -> None:
    raw = (janus / "manifest.json").read_bytes()
    refused(seal_raw(janus, raw.replace(b'"format": 3', b'"format": 3, "format": 3')), "twice")
    refused(seal_raw(janus, b"[" * 100_000), "manifest.json")
    refused(seal_raw(janus, b"\xef\xbb\xbf" + raw), "manifest.json")
    refused(seal_raw(janus, b'{"a": NaN}'), "manifest.json")


def _npy(array: np.ndarray, path: Path, version: tuple[int, int] = (1, 0)) -> bytes:
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version=version)
    return path.read_bytes()


TABLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "too few rows": lambda t: t[:-1],
    "too many rows": lambda t: np.concatenate([t, t]),
    "other rows": lambda t: t[:, :-1],
    "one axis": lambda t: t.ravel(),
    "doubles": lambda t: t.astype(np.float64),
    "complex": lambda t: t.astype(np.complex64),
    "integers": lambda t: t.astype(np.int16),
    "big-endian": lambda t: t.astype(">f2"),
    "structured": lambda t: t.view([("a", "<f2")]),
    "NaN": lambda t: np.where(np.arange(len(t))[:, None] == 3, np.float16("nan"), t),
    "infinite": lambda t: np.where(np.arange(len(t))[:, None] == 3, np.float16("inf"), t),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_must_be_what_they_should(janus: Path, tmp_path: Path, kind: str) -> None:
    table = np.load(janus / "text_embed.npy")
    write(janus, "text_embed.npy", _npy(TABLES[kind](table), tmp_path / "made.npy"))
    refused(seal(janus), r"text_embed\.npy: (not|holds)")


def test_other_files_are_no_tables(janus: Path, tmp_path: Path) -> None:
    table = np.load(janus / "text_embed.npy")
    raw = (janus / "text_embed.npy").read_bytes()
    rng = random.Random(0)
    later = _npy(table, tmp_path / "made.npy", (2, 0))
    cut = [raw[: rng.randrange(len(raw))] for _ in range(10)]
    header = b"(" * 5000
    long = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    pickled = raw.replace(b"<f2", b"|O8"[:3])
    for content in (b"", raw + b"\0", later, long, pickled, *cut):
        write(janus, "text_embed.npy", content)
        refused(seal(janus), r"text_embed\.npy: not")


def test_tables_by_column_are_read(janus: Path, tmp_path: Path) -> None:
    table = np.load(janus / "code_embed.npy")
    write(janus, "code_embed.npy", _npy(np.asfortranarray(table), tmp_path / "made.npy"))
    found = open_bundle(seal(janus)).tables["code_embed"]
    assert np.array_equal(found[np.arange(len(table))], table)


def test_large_tables_are_read_as_they_are_used(
    janus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("janus_edge.runtime.tables.WHOLE_TABLE", 0)
    table = np.load(janus / "text_embed.npy")
    table[3] = np.nan
    bundle = open_bundle(janus)
    found = bundle.tables["text_embed"]
    rows = np.array([[0, 455], [7, 7]])
    assert np.array_equal(found[rows], table[rows]) and len(found) == 456
    assert np.array_equal(np.asarray(bundle.tables["code_embed"])[5], found_row(janus, 5))
    with pytest.raises(IndexError):
        found[np.array([456])]
    os.truncate(janus / "text_embed.npy", 1000)  # while it is open: no SIGBUS
    with pytest.raises(BundleError, match="has become shorter"):
        found[np.array([455])]


def found_row(folder: Path, row: int) -> np.ndarray:
    found: np.ndarray = np.load(folder / "code_embed.npy")[row]
    return found


def _tokenizer(change: Callable[[dict[str, Any]], Any]) -> str:
    read = json.loads((SHIPPED / "tiny-janus/tokenizer.json").read_text(encoding="utf-8"))
    change(read)
    return json.dumps(read)


def _split(pattern: str) -> Callable[[dict[str, Any]], Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}

    def change(read: dict[str, Any]) -> None:
        parts = [split | {"invert": False}, read["pre_tokenizer"]]
        read["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}

    return change


TOKENIZERS: dict[str, str | bytes] = {
    "too many tries": _tokenizer(_split("(a+)+$")),
    "too deep": _tokenizer(_split("(" * 5000 + "a" + ")" * 5000)),
    "too large": _tokenizer(_split("((a{1000}){1000}){1000}")),
    "unfinished": _tokenizer(_split("[a")),
    "unfinished class": _tokenizer(_split("[[:foo]")),
    "precompiled": _tokenizer(
        lambda t: t.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})
    ),
    "a regex that decodes": _tokenizer(
        lambda t: t.update(
            decoder={"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}
        )
    ),
    "another model": _tokenizer(lambda t: t["model"].update(type="WordPiece")),
    "no model": _tokenizer(lambda t: t.pop("model")),
    "no vocabulary": _tokenizer(lambda t: t["model"].update(vocab={})),
    "dropout": _tokenizer(lambda t: t["model"].update(dropout=0.5)),
    "an id beyond the model": _tokenizer(lambda t: t["model"]["vocab"].update(zzz=456)),
    "a huge id": _tokenizer(lambda t: t["model"]["vocab"].update(zzz=2**32)),
    "a special id beyond": _tokenizer(lambda t: t["added_tokens"][0].update(id=5000)),
    "an id that is text": _tokenizer(lambda t: t["model"]["vocab"].update(zzz="1")),
    "a merge of nothing": _tokenizer(lambda t: t["model"]["merges"].append(["qq", "qq"])),
    "a list": "[]",
    "nothing": "",
    "deep": "[" * 100_000,
    "no UTF-8": b"\xff\xfe{}",
    "twice": _tokenizer(lambda t: None).replace('"decoder"', '"version": "1.0", "decoder"'),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_wrong_tokenizers_are_refused(
    janus: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """None makes the library panic, which it would also say on standard error."""
    text = TOKENIZERS[kind]
    write(janus, "tokenizer.json", text if isinstance(text, bytes) else text.encode())
    refused(seal(janus), r"tokenizer\.json: ")
    assert capfd.readouterr().err == ""


def test_settings_of_a_tokenizer_that_cut_prompts_are_left_out(janus: Path) -> None:
    text = _tokenizer(
        lambda t: t.update(
            truncation={
                **{"max_length": 4, "strategy": "LongestFirst", "direction": "Right"},
                "stride": 5,  # which would make the library panic
            }
        )
    )
    write(janus, "tokenizer.json", text.encode())
    encoder = open_bundle(seal(janus)).encoder
    assert np.array_equal(
        encoder.generation("a red star"), open_bundle("tiny-janus").encoder.generation("a red star")
    )


@pytest.fixture
def session(janus: Path) -> Iterator[Session]:
    yield Session(open_bundle(janus), num_threads=1)


@pytest.mark.parametrize("name", ["decoder.onnx", "image_head.onnx", "code_embed.npy"])
def test_a_file_that_is_replaced_after_opening_is_noticed(
    janus: Path, session: Session, name: str
) -> None:
    """Before its first use; two models would be mixed."""
    raw = bytearray((janus / name).read_bytes())
    raw[-1] ^= 1
    write(janus, name, bytes(raw))
    with pytest.raises(BundleError, match=rf"{name}: is another file since the bundle was opened"):
        list(session.generate_image(ImageRequest(prompt="a star")))


def test_a_file_that_is_gone_after_opening_is_noticed(janus: Path, session: Session) -> None:
    (janus / "image_decoder.onnx").unlink()
    with pytest.raises(BundleError, match="is another file"):
        list(session.generate_image(ImageRequest(prompt="a star")))


def test_a_copy_in_its_place_is_as_good(
    janus: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(janus, "decoder.onnx", (janus / "decoder.onnx").read_bytes())
    list(session.generate_image(ImageRequest(prompt="a star")))
    monkeypatch.setattr(bundles, "_check_file", None)  # it is not hashed again for each use
    list(session.generate_image(ImageRequest(prompt="a star")))


SWAPPED = [
    *(("decoder.onnx", other) for other in ("text_head.onnx", "tokenizer.json")),
    *(("image_head.onnx", other) for other in ("text_head.onnx", "image_decoder.onnx")),
    ("image_decoder.onnx", "vision_encoder.onnx"),
]


@pytest.mark.parametrize(("name", "other"), SWAPPED)
def test_graphs_must_be_what_the_manifest_says(janus: Path, name: str, other: str) -> None:
    write(janus, name, (janus / other).read_bytes())
    with pytest.raises(BundleError, match=rf"{name}: ") as caught:
        draw(seal(janus))
    assert len(str(caught.value).splitlines()) == 1


def test_a_graph_that_computes_no_numbers_is_no_image(janus: Path) -> None:
    """Weights are not looked at as it is opened; what comes out is."""
    raw = (janus / "image_head.onnx").read_bytes()
    middle = len(raw) // 2  # among the weights; two bytes of 0xff are no number in fp16
    raw = raw[:middle] + b"\xff" * 4000 + raw[middle + 4000 :]
    write(janus, "image_head.onnx", raw)
    with pytest.raises(BundleError, match=r"image_head: computes what is no finite number"):
        draw(seal(janus))


def test_prompts_come_out_as_the_models_tokens(janus: Path) -> None:
    folder = seal(janus, lambda m: m["prompt"].update(user_role="<image_placeholder>"))
    session = Session(open_bundle(folder), num_threads=1)
    with pytest.raises(BundleError, match="does not read <image_placeholder>"):
        list(session.ask(AskRequest(question="what is it?")))


def test_names_are_shown_as_they_are(cli: Any, janus: Path) -> None:
    """Not read as markup of the terminal's library."""
    folder = seal(janus, lambda m: m.update(name="a [/b] [red]c"))
    for command in ("inspect", "doctor"):
        done = cli(command, folder)
        assert (done.returncode, done.stderr) == (0, "")
    assert "a [/b] [red]c" in cli("inspect", folder).stdout
