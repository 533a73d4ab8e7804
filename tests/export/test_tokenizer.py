"""tokenizer.bin says what tokenizer.json says, by its reader in Python; native code has to as well
(tests/native/test_tokenizer.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from janus_edge.export.tokenizer.compile import check_tokenizer, compile_tokenizer, corpus
from janus_edge.export.tokenizer.tables import TokenTables
from janus_edge.model.tensors import CheckpointError
from tests.tokens import deepseek_like, tiny

MAKERS = [tiny, deepseek_like]


@pytest.mark.parametrize("make", MAKERS)
def test_the_tables_agree(make: object) -> None:
    text = make()  # type: ignore[operator]
    check_tokenizer(text, compile_tokenizer(text))


def test_a_difference_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text = tiny()
    monkeypatch.setattr(TokenTables, "encode", lambda self, text: [0])
    with pytest.raises(
        CheckpointError, match=r"tokenizer.json: compiled, it reads '.*' as \[0\], not"
    ):
        check_tokenizer(text, compile_tokenizer(text))


def test_the_corpus_has_what_goes_wrong() -> None:
    found = corpus(Tokenizer.from_str(tiny()))
    text = "".join(found)
    assert len(found) >= 1000 and len(set(found)) > 900
    for part in ("\x00", "\ufffd", "😀", "猫", "ß", "<|User|>", "\u3000", "'re", "İ"):
        assert part in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda raw: raw["model"].update(byte_fallback=True), "model.byte_fallback is set"),
        (lambda raw: raw["model"].update(ignore_merges=True), "model.ignore_merges is set"),
        (lambda raw: raw.update(normalizer={"type": "NFC"}), "only Lowercase is known"),
        (lambda raw: raw["added_tokens"][0].update(lstrip=True), "strips or wants whole words"),
        (
            lambda raw: raw["pre_tokenizer"].update(add_prefix_space=True),
            "does not end in ByteLevel as it is",
        ),
        (
            lambda raw: raw.update(
                pre_tokenizer={
                    "type": "Sequence",
                    "pretokenizers": [{"type": "Whitespace"}, raw["pre_tokenizer"]],
                }
            ),
            "'Whitespace'}; it is not known",
        ),
    ],
)
def test_what_has_no_form_is_refused(change: object, says: str) -> None:
    raw = json.loads(tiny())
    change(raw)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=says):
        compile_tokenizer(json.dumps(raw))


def test_every_bundle_has_one(bundle_dir: Path) -> None:
    from janus_edge.runtime.bundle import open_bundle, shipped_bundles

    for folder in (bundle_dir, *shipped_bundles()):
        bundle = open_bundle(folder)
        given = bundle.manifest.tokenizer_bin
        raw, text = (bundle.folder / f.file for f in (given, bundle.manifest.tokenizer))
        tables, tokenizer = (
            TokenTables(raw.read_bytes()),
            Tokenizer.from_str(text.read_text(encoding="utf-8")),
        )
        prompt = "<|User|>: three RED circles, don't you think? 고양이 세 마리\n\n<|Assistant|>:"
        assert tables.encode(prompt) == tokenizer.encode(prompt, add_special_tokens=False).ids
