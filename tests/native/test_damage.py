"""Damaged bundles: JE_E_BUNDLE, and a line that names the file."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from janus_edge.export.tokenizer.compile import compile_tokenizer
from janus_edge.runtime.bundle import SHIPPED
from tests.native import capi
from tests.native.capi import Api, ApiError
from tests.runtime.test_manifest import WRONG, rewrite

JANUS = SHIPPED / "tiny-janus"
FILES = sorted(path.name for path in JANUS.iterdir() if path.suffix != ".py")


def line_of(api: Api, folder: Path, **options: Any) -> str:
    with pytest.raises(ApiError) as caught, api.session(folder, **options):
        pass
    assert caught.value.status == capi.E_BUNDLE
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(JANUS, folder)
    return folder


def _cut(raw: bytes, rng: random.Random) -> bytes:
    return raw[: rng.randrange(len(raw))]


def _flip(raw: bytes, rng: random.Random) -> bytes:
    changed = bytearray(raw)
    changed[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("damage", [_cut, _flip])
@pytest.mark.parametrize("name", FILES)
def test_every_byte_of_every_file_counts(
    api: Api, copy: Path, name: str, damage: Callable[[bytes, random.Random], bytes]
) -> None:
    rng, raw = random.Random(name), (copy / name).read_bytes()
    for _ in range(5):
        (copy / name).write_bytes(damage(raw, rng))
        said = line_of(api, copy)
        # of a manifest and its checksum either may be the damaged one
        assert name in said or (name == "manifest.sha256" and "manifest.json" in said)
    (copy / name).write_bytes(raw)
    with api.session(copy):
        pass


@pytest.mark.parametrize("name", FILES)
def test_every_file_must_be_there(api: Api, copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert name in line_of(api, copy)


def test_touched_files_are_hashed_again(api: Api, copy: Path) -> None:
    """One that was found right stays so only while it is not touched; check_all asks anew."""
    with api.session(copy):
        pass
    path = copy / "decoder.onnx"
    raw = path.read_bytes()
    path.write_bytes(_flip(raw, random.Random(1)))
    assert "decoder.onnx: damaged" in line_of(api, copy)
    assert "decoder.onnx: damaged" in line_of(api, copy, check_all=1)
    path.write_bytes(raw)
    with api.session(copy, check_all=1):
        pass


def test_python_and_c_share_what_they_found_right(
    api: Api, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same note, and each believes the other's."""
    from janus_edge.runtime import bundle

    monkeypatch.setenv("JANUS_EDGE_HOME", str(tmp_path / "home"))
    with api.session(copy):
        pass
    (note,) = (tmp_path / "home/checked").iterdir()
    written = json.loads(note.read_bytes())
    hashed: list[Path] = []
    monkeypatch.setattr(bundle, "_check_file", lambda path, expected: hashed.append(path))
    bundle.open_bundle(copy)
    assert not hashed and json.loads(note.read_bytes()) == written


@pytest.mark.parametrize("index", range(len(WRONG)))
def test_wrong_manifests_are_refused(api: Api, tmp_path: Path, index: int) -> None:
    """Those that Python refuses, and the same key is named."""
    change, says = WRONG[index]
    line = line_of(api, rewrite(JANUS, tmp_path, change))
    assert says.removeprefix("no component ") in line


MORE: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda m: m["sizes"].update(max_length=2**20, num_layers=1024, head_dim=4096), "too large"),
    (lambda m: m["sizes"].update(max_length=2**31 - 1), "sizes.max_length is out of range"),
    (lambda m: m["sizes"].update(image_size=65), "do not fit together"),
    (lambda m: m["sizes"].update(vocab_size=457), "text_head.outputs"),
    (lambda m: m["sizes"].update(hidden_size=1.5), "sizes.hidden_size is no whole number"),
    (lambda m: m["sizes"].update(hidden_size=2**70), "sizes.hidden_size is no whole number"),
    (lambda m: m.pop("tokenizer_bin"), "without tokenizer.bin"),
    (lambda m: m["components"]["decoder"]["inputs"][0].update(shape=[0]), "inputs.0.shape"),
    (lambda m: m["components"]["decoder"].update(tensors={"a": 1}), "decoder.tensors.a"),
    (lambda m: m.update(prompt=[]), "prompt is no object"),
    (lambda m: m.update(components=[]), "components is no object"),
    (lambda m: m.update(name=1), "name is no text"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "says"), MORE)
def test_more_wrong_manifests(
    api: Api, tmp_path: Path, change: Callable[[dict[str, Any]], Any], says: str
) -> None:
    folder = rewrite(JANUS, tmp_path, change)

    def use() -> None:
        with api.session(folder) as session:  # a table is opened when it is needed
            api.draw(session, prompt=b"a")

    with pytest.raises(ApiError, match=says) as caught:
        use()
    assert caught.value.status == capi.E_BUNDLE and "\n" not in str(caught.value)


def test_a_tokenizer_that_does_not_read_the_models_tokens(api: Api, tmp_path: Path) -> None:
    """Well-formed tables, in which the special tokens are pieces like any other."""
    read = json.loads((JANUS / "tokenizer.json").read_text(encoding="utf-8"))
    read["added_tokens"] = []
    raw = compile_tokenizer(json.dumps(read))
    sha256 = hashlib.sha256(raw).hexdigest()
    folder = rewrite(JANUS, tmp_path, lambda m: m["tokenizer_bin"].update(sha256=sha256))
    (folder / "tokenizer.bin").write_bytes(raw)
    with api.session(folder) as session:
        with pytest.raises(ApiError, match="does not read <begin_of_image>") as caught:
            api.draw(session, prompt=b"a star")
        assert caught.value.status == capi.E_BUNDLE
        image = np.zeros((9, 9), np.uint8)
        with pytest.raises(ApiError, match="does not read <image_placeholder>") as caught:
            api.ask(session, prompt=b"what is it?", input_images=[image])
        assert caught.value.status == capi.E_BUNDLE


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b"null", b"[" * 100_000])
def test_no_json(api: Api, copy: Path, raw: bytes) -> None:
    (copy / "manifest.json").write_bytes(raw)
    (copy / "manifest.sha256").write_text(hashlib.sha256(raw).hexdigest() + "\n", encoding="utf-8")
    assert "manifest.json" in line_of(api, copy)


def test_no_bundle(api: Api, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none", JANUS / "manifest.json"):
        assert str(folder) in line_of(api, folder)
