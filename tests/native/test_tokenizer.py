"""The native reader of tokenizer.bin gives Hugging Face's ids, and refuses damage."""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from janus_edge.export.tokenizer.compile import compile_tokenizer, corpus
from tests.native.conftest import ARM, Build
from tests.tokens import deepseek_like, tiny

Program = list[str | Path]  # the words that run it


@pytest.fixture(scope="module", params=["address,undefined", ARM])
def program(request: pytest.FixtureRequest, build: Callable[[str], Build]) -> Program:
    """Built with sanitizers: what reads outside of a table ends it."""
    return build(request.param).command("tokenize")


@pytest.fixture(scope="module", params=[tiny, deepseek_like], ids=["tiny", "deepseek"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A tokenizer.json's text and its tokenizer.bin."""
    text, path = request.param(), tmp_path_factory.mktemp("tables") / "tokenizer.bin"
    path.write_bytes(compile_tokenizer(text))
    return text, path


def _run(program: Program, tables: Path, texts: list[bytes]) -> list[tuple[list[int], bytes]]:
    given = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    done = subprocess.run([*program, tables], input=given, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    found, at = [], 0
    for _ in texts:
        count, size = struct.unpack_from("<2I", done.stdout, at)
        ids = struct.unpack_from(f"<{count}I", done.stdout, at + 8)
        at += 8 + 4 * count + size
        found.append((list(ids), done.stdout[at - size : at]))
    assert at == len(done.stdout)
    return found


def test_ten_thousand_texts(program: Program, pair: tuple[str, Path]) -> None:
    text, path = pair
    tokenizer = Tokenizer.from_str(text)
    texts = list(dict.fromkeys(corpus(tokenizer, 12_000)))
    assert len(texts) >= 10_000
    found = _run(program, path, [each.encode() for each in texts])
    for each, (ids, back) in zip(texts, found, strict=True):
        expected = tokenizer.encode(each, add_special_tokens=False).ids
        assert ids == expected, each
        assert back.decode() == tokenizer.decode(expected, skip_special_tokens=True), each


def test_bytes_that_are_no_text(program: Program, pair: tuple[str, Path]) -> None:
    """As Python's errors="replace" reads them."""
    text, path = pair
    rng, tokenizer = random.Random(1), Tokenizer.from_str(text)
    odd = [0xC2, 0xE0, 0xED, 0xF0, 0xF4, 0x80, 0xA0, 0x90, 0xBF, 0x41]
    texts = [bytes(rng.choices(odd, k=rng.randrange(12))) for _ in range(2000)]
    for raw, (ids, _) in zip(texts, _run(program, path, texts), strict=True):
        shown = raw.decode(errors="replace")
        assert ids == tokenizer.encode(shown, add_special_tokens=False).ids, raw


def test_damage_is_one_line(program: Program, pair: tuple[str, Path], tmp_path: Path) -> None:
    """Cut short anywhere, or with flipped bits: it says so, or still reads inside its tables."""
    _, path = pair
    raw, rng, damaged = path.read_bytes(), random.Random(2), tmp_path / "damaged.bin"
    refused = 0
    for index in range(120):
        wrong = bytearray(raw)
        if index % 2:
            del wrong[rng.randrange(len(raw)) :]
        else:  # among the numbers, which come first
            wrong[rng.randrange(1200)] ^= 1 << rng.randrange(8)
        damaged.write_bytes(wrong)
        done = subprocess.run(
            [*program, damaged], input=struct.pack("<I", 9) + b"a red cat", capture_output=True
        )
        assert done.returncode in (0, 1), done.stderr.decode()
        if done.returncode:
            refused += 1
            line = done.stderr.decode()
            assert line.startswith("tokenizer.bin: ") and line.count("\n") == 1
            assert line.endswith("export the bundle again\n")
    assert refused > 60  # all that were cut, and more
