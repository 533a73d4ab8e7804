"""What Python refuses of a bundle whose hashes are right (tests/runtime/test_hostile_bundle.py),
the C API refuses, too."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from janus_edge.runtime.backends import cpu_library
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.errors import BundleError
from janus_edge.runtime.events import Image
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session
from tests.native import capi
from tests.native.capi import Api, ApiError
from tests.runtime.test_hostile_bundle import (
    CONTRACT,
    FILES,
    KINDS,
    SIZES,
    SWAPPED,
    TABLES,
    _npy,
)
from tests.sealed import copy_of, seal, seal_raw, write

Lie = Callable[[Path, dict[str, Any]], None]
_READ = ("hidden.weight", "layers.1.input_layernorm.weight", "k_0.scale", "cos")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JANUS_EDGE_HOME", str(tmp_path / "home"))


@pytest.fixture
def janus(tmp_path: Path) -> Path:
    return copy_of("tiny-janus", tmp_path / "copy")


def refused(api: Api, folder: Path | str, draws: bool = False) -> str:
    with pytest.raises(ApiError) as caught, api.session(folder) as session:
        if draws:
            api.draw(session, prompt=b"a star")
    assert caught.value.status == capi.E_BUNDLE
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_are_read(api: Api, janus: Path, name: str, kind: str) -> None:
    make, says = KINDS[kind]
    (janus / name).unlink()
    make(janus / name)
    assert f"{name}: {says}" in refused(api, janus)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256", "tokenizer.bin"])
def test_files_that_are_read_whole_have_a_limit(api: Api, janus: Path, name: str) -> None:
    write(janus, name, b"")
    os.truncate(janus / name, 2**40)
    assert f"{name}: " in refused(api, janus)


@pytest.mark.parametrize("bundle", ["tiny-janus", "tiny-flow"])
def test_sizes_must_be_those_of_the_files(api: Api, tmp_path: Path, bundle: str) -> None:
    folder = copy_of(bundle, tmp_path / "copy")
    before = json.loads((folder / "manifest.json").read_bytes())
    for name, value in SIZES:
        if name in before["sizes"]:
            sizes = before["sizes"] | {name: value}
            seal(folder, lambda m, sizes=sizes: m.update(sizes=sizes))
            refused(api, folder)


def test_the_manifest_must_be_what_the_loops_need(api: Api, janus: Path) -> None:
    before = json.loads((janus / "manifest.json").read_bytes())
    for change, _ in CONTRACT:
        manifest = json.loads(json.dumps(before))
        change(manifest)
        seal_raw(janus, json.dumps(manifest).encode())
        refused(api, janus)


def test_keys_stand_there_once(api: Api, janus: Path) -> None:
    raw = (janus / "manifest.json").read_bytes()
    twice = raw.replace(b'"format": 3', b'"format": 3, "format": 3')
    for wrong in (twice, b"\xef\xbb\xbf" + raw, raw + b"\0", raw + b"\0{", b'{"a": NaN}'):
        assert "is no JSON" in refused(api, seal_raw(janus, wrong))


@pytest.mark.parametrize("kind", TABLES)
def test_tables_must_be_what_they_should(api: Api, janus: Path, tmp_path: Path, kind: str) -> None:
    table = np.load(janus / "text_embed.npy")
    write(janus, "text_embed.npy", _npy(TABLES[kind](table), tmp_path / "made.npy"))
    assert "text_embed.npy: " in refused(api, seal(janus))


def test_tables_by_column_are_read(api: Api, janus: Path, tmp_path: Path) -> None:
    """Of halves too; the same image comes out."""
    with api.session(janus) as session:
        (expected,) = api.draw(session, prompt=b"a star")
    for name in ("text_embed.npy", "code_embed.npy"):
        table = np.asfortranarray(np.load(janus / name))
        write(janus, name, _npy(table, tmp_path / "made.npy"))
    with api.session(seal(janus)) as session:
        (found,) = api.draw(session, prompt=b"a star")
    assert np.array_equal(found.codes, expected.codes)


@pytest.mark.parametrize("name", ["decoder.onnx", "image_head.onnx", "code_embed.npy"])
def test_a_file_that_is_replaced_after_opening_is_noticed(api: Api, janus: Path, name: str) -> None:
    with api.session(janus) as session:
        raw = bytearray((janus / name).read_bytes())
        write(janus, name, bytes(raw))  # a copy is as good
        api.draw(session, prompt=b"a star")
    with api.session(janus) as session:
        raw[-1] ^= 1
        write(janus, name, bytes(raw))
        with pytest.raises(ApiError, match="is another file since the bundle was opened") as caught:
            api.draw(session, prompt=b"a star")
        assert caught.value.status == capi.E_BUNDLE


@pytest.mark.parametrize(("name", "other"), SWAPPED)
def test_graphs_must_be_what_the_manifest_says(
    api: Api, janus: Path, name: str, other: str
) -> None:
    write(janus, name, (janus / other).read_bytes())
    assert f"{name}: " in refused(api, seal(janus), draws=True)


def test_a_graph_that_computes_no_numbers_is_no_image(api: Api, janus: Path) -> None:
    raw = (janus / "image_head.onnx").read_bytes()
    middle = len(raw) // 2  # among the weights; two bytes of 0xff are no number in fp16
    raw = raw[:middle] + b"\xff" * 4000 + raw[middle + 4000 :]
    write(janus, "image_head.onnx", raw)
    assert "computes what is no finite number" in refused(api, seal(janus), draws=True)


def test_token_ids_are_rows_of_the_model(api: Api, janus: Path) -> None:
    raw = (janus / "tokenizer.bin").read_bytes()
    write(janus, "tokenizer.bin", _with_two_tokens_more(raw))
    assert "has 457 tokens, the model 456 rows" in refused(api, seal(janus))


def _nan(tensor: str) -> Lie:
    def change(folder: Path, manifest: dict[str, Any]) -> None:
        at = manifest["components"]["decoder"]["tensors"][tensor]["offset"]
        raw = bytearray((folder / "decoder.data").read_bytes())
        raw[at : at + 4] = b"\xff" * 4
        write(folder, "decoder.data", bytes(raw))

    return change


def _infinite_scale(folder: Path, manifest: dict[str, Any]) -> None:
    at = manifest["components"]["decoder"]["tensors"]["layers.0.down_proj.weight.tiles"]["offset"]
    raw = bytearray((folder / "decoder.data").read_bytes())
    raw[at : at + 4] = np.float32(np.inf).tobytes()
    write(folder, "decoder.data", bytes(raw))


def _other_blocks(folder: Path, manifest: dict[str, Any]) -> None:
    tensors = manifest["components"]["image_decoder"]["tensors"]
    name = next(each for each in tensors if each.endswith("double.even_even.weight.tiles"))
    tensors[name]["dtype"] = "int8_tiles"  # 32 inputs a block, its neighbours have 128


def _float_caches(folder: Path, manifest: dict[str, Any]) -> None:
    decoder = manifest["components"]["decoder"]
    for each in decoder["inputs"] + decoder["outputs"]:
        if each["name"].startswith(("past_", "present_")):
            each["dtype"] = "float32"


# How a bundle of tiles lies, and what both languages say.
LIES: list[tuple[Lie, str]] = [
    (_other_blocks, "sizes do not fit together"),
    (_float_caches, "decoder.onnx: inputs: "),
    (_infinite_scale, "decoder: computes what is no finite number"),
    *((_nan(name), f"{name} holds what is no finite number") for name in _READ),
]


@pytest.mark.parametrize(("lie", "says"), LIES)
def test_what_the_cpu_kernels_read_must_fit(
    api: Api, int4_dir: Path, tmp_path: Path, lie: Lie, says: str
) -> None:
    """In C and in Python."""
    if cpu_library.library() is None:
        pytest.skip("the CPU kernels do not run here")
    folder = tmp_path / "copy"
    shutil.copytree(int4_dir, folder)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    lie(folder, manifest)
    seal(folder, lambda found: found.update(components=manifest["components"]))
    seal(folder)  # the data's hash
    assert says in refused(api, folder, draws=True)
    session = Session(open_bundle(folder), num_threads=1)
    with pytest.raises(BundleError, match=re.escape(says)):
        list(session.generate_image(ImageRequest(prompt="a star")))


def test_a_note_that_is_deep_is_ignored(api: Api, janus: Path, tmp_path: Path) -> None:
    with api.session(janus):
        pass
    (note,) = (tmp_path / "home" / "checked").iterdir()
    note.write_text('{"a": ' + "[" * 500_000 + "]" * 500_000 + "}", encoding="utf-8")
    with api.session(janus) as session:
        assert len(api.draw(session, prompt=b"a star")) == 1
    assert note.stat().st_size < 100_000  # it was written anew


def test_the_process_may_change_its_folder(
    api: Api, janus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(janus.parent)
    own = Session(open_bundle(Path(janus.name)), num_threads=1)
    with api.session(janus.name) as session:
        monkeypatch.chdir("/")
        (found,) = api.draw(session, prompt=b"a star")
    images = [e for e in own.generate_image(ImageRequest(prompt="a star")) if isinstance(e, Image)]
    assert np.array_equal(found.pixels, images[0].pixels)
    with pytest.raises(BundleError, match="no bundle is named"):
        open_bundle("")
    assert "no bundle is named" in refused(api, "")


def test_an_error_can_be_shown_on_a_terminal(api: Api, tmp_path: Path) -> None:
    line = refused(api, tmp_path / "a\x9b31m\u202eb\u2028c\x7f")
    assert line.endswith(
        "a 31m b c /manifest.json: No such file or directory; is it the folder of a bundle?"
    )
    assert len(refused(api, tmp_path / ("a/" * 30_000))) <= 4001


def _with_two_tokens_more(raw: bytes) -> bytes:
    """Of no text: two more places at the end of theirs (docs/bundle.md)."""
    count = int.from_bytes(raw[8:12], "little")
    end = 4 + 8 * 4 + 256 * 4 + (count + 1) * 4
    words = (count + 2).to_bytes(4, "little")
    return raw[:8] + words + raw[12:end] + raw[end - 4 : end] * 2 + raw[end:]
