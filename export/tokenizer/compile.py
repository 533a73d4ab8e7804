"""Compile tokenizer.json to tokenizer.bin, which the C++ code reads.

So the C++ code needs no JSON, no regular expressions and no Unicode tables. docs/bundle.md
specifies the bytes; ``TokenTables`` and native/core/tokenizer.cpp read them.

The characters of a class, and lower case, are asked of the tokenizers library for every character
there is: its Unicode tables are of another version than Python's.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, normalizers
from tokenizers import pre_tokenizers as splitters

from janus_edge.export.tokenizer.tables import (
    CLASS,
    CONTRACTED,
    MAGIC,
    NO_TOKEN,
    NORMALIZED,
    OPTIONAL_SPACE,
    RUN,
    SPECIAL,
    TO_THE_END,
    VERSION,
    Ranges,
    TokenTables,
)
from janus_edge.model.tensors import CheckpointError
from janus_edge.runtime.tokenizer_json import CLASS_PATTERN, SPACES_AT_THE_END, UNKNOWN_OF_MODELS

_EVERY = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))


def compile_tokenizer(json_text: str) -> bytes:
    """Return the bytes of a tokenizer.bin.

    Args:
        json_text: The tokenizer.json of a byte-level BPE.

    Raises:
        CheckpointError: The tables have no form for the tokenizer.
    """
    raw, tokenizer = json.loads(json_text), Tokenizer.from_str(json_text)
    model = raw["model"]
    _check_model(model)
    added = _added(tokenizer)
    ids: dict[str, int] = model["vocab"]
    count = max(*ids.values(), *added, 0) + 1
    strings = {
        **{id_: text for text, id_ in ids.items()},
        **{i: t.content for i, t in added.items()},
    }
    bytes_of = [_decoded(strings.get(id_, "")) for id_ in range(count)]
    merges = sorted(
        (ids[left], ids[right], rank, ids[left + right])
        for rank, (left, right) in enumerate(map(_pair, model["merges"]))
    )
    by_length = sorted(added.items(), key=lambda item: -len(_content(tokenizer, item[1])))
    texts = [_content(tokenizer, token) for _, token in by_length]
    lowered, steps = _lowered(raw.get("normalizer")), _steps(raw["pre_tokenizer"])
    words: list[int] = [
        VERSION, count, len(merges), len(by_length), len(lowered), len(steps),
        sum(map(len, bytes_of)), sum(map(len, texts)),
    ]  # fmt: skip
    words += [ids.get(_letter(byte), NO_TOKEN) for byte in range(256)]
    words += _offsets(bytes_of)
    words += [word for merge in merges for word in merge]
    for (id_, token), start in zip(by_length, _offsets(texts), strict=False):
        flags = SPECIAL * token.special + NORMALIZED * token.normalized
        words += [id_, flags, start, len(_content(tokenizer, token))]
    words += [word for row in lowered for word in row]
    words += _ranges(_class(r"\s"))
    words += [word for step in steps for word in step]
    blob = b"".join((*bytes_of, *texts))
    return MAGIC + struct.pack(f"<{len(words)}I", *words) + blob + b"\0" * (-len(blob) % 4)


def _check_model(model: dict[str, Any]) -> None:
    if model["type"] != "BPE":
        raise CheckpointError(f"tokenizer.json: a {model['type']} model; only BPE is known")
    for key in UNKNOWN_OF_MODELS:
        if model.get(key):
            raise CheckpointError(f"tokenizer.json: model.{key} is set, which is not known")


def _added(tokenizer: Tokenizer) -> dict[int, AddedToken]:
    found: dict[int, AddedToken] = tokenizer.get_added_tokens_decoder()
    for token in found.values():
        if token.lstrip or token.rstrip or token.single_word:
            raise CheckpointError(f"tokenizer.json: {token.content}: strips or wants whole words")
    return found


def _content(tokenizer: Tokenizer, token: AddedToken) -> bytes:
    """Return an added token's bytes as they are searched for in the text."""
    text: str = token.content
    if token.normalized and tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    return text.encode()


def _pair(merge: str | list[str]) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


@cache
def _letters() -> dict[str, int]:
    """Return the byte of each letter in a byte-level vocabulary.

    Source: GPT-2's encoder.
    """
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {chr(byte): byte for byte in shown}
    return letters | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def _letter(byte: int) -> str:
    return next(letter for letter, value in _letters().items() if value == byte)


def _decoded(text: str) -> bytes:
    """Return a token's bytes: those its letters represent, or its own if one represents none."""
    letters = _letters()
    if all(letter in letters for letter in text):
        return bytes(letters[letter] for letter in text)
    return text.encode()


def _lowered(normalizer: dict[str, Any] | None) -> list[tuple[int, ...]]:
    """Return rows of a character, how many characters replace it, and those, up to three."""
    if normalizer is None or normalizer == {"type": "Sequence", "normalizers": []}:
        return []
    if normalizer != {"type": "Lowercase"}:
        raise CheckpointError(f"tokenizer.json: normalizer {normalizer}; only Lowercase is known")
    return _lower_case()


@cache
def _lower_case() -> list[tuple[int, ...]]:
    lower, rows = normalizers.Lowercase(), []
    for letter in _EVERY:
        made = lower.normalize_str(letter)
        if made != letter:
            points = [ord(each) for each in made]
            rows.append((ord(letter), len(points), *points, *[0] * (3 - len(points))))
    return rows


def _steps(pre_tokenizer: dict[str, Any]) -> list[list[int]]:
    parts = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    if parts[-1]["type"] != "ByteLevel" or parts[-1].get("add_prefix_space"):
        raise CheckpointError("tokenizer.json: pre_tokenizer does not end in ByteLevel as it is")
    steps = [_step(part) for part in parts[:-1]]
    if parts[-1].get("use_regex", True):
        classes = (_class(r"\p{L}"), _class(r"\p{N}"))
        steps.append([CONTRACTED, *_ranges(classes[0]), *_ranges(classes[1])])
    return steps


def _step(part: dict[str, Any]) -> list[int]:
    if part["type"] == "Digits":
        flags = 0 if part["individual_digits"] else RUN
        found = _matched(splitters.Digits(individual_digits=True), "0")
        return [CLASS, flags, *_ranges(found)]
    if part["type"] == "Split" and part["behavior"] == "Isolated" and not part["invert"]:
        pattern = part["pattern"].get("Regex", "")
        if pattern == SPACES_AT_THE_END:
            return [CLASS, RUN | TO_THE_END, *_ranges(_class(r"\s"))]
        if match := CLASS_PATTERN.fullmatch(pattern):
            flags = OPTIONAL_SPACE * bool(match[1]) + RUN * bool(match[3])
            return [CLASS, flags, *_ranges(_class(match[2]))]
    raise CheckpointError(f"tokenizer.json: pre_tokenizer {str(part)[:80]}; it is not known")


@cache
def _class(pattern: str) -> Ranges:
    """Return the characters that a pattern of one character matches."""
    return _matched(splitters.Split(Regex(pattern), "isolated"))


def _matched(splitter: Any, among: str = "") -> Ranges:
    """Return the characters that a splitter splits off between two others.

    Asking one by one would be slow, so a whole range of characters is asked in one text. The
    characters between them are in no class. ``among`` is a character of the class, if there is one.
    """
    inside: list[int] = []
    quiet = "\ue000" if among != "\ue000" else "\ue001"  # of private use: in no class
    for start in range(0, len(_EVERY), 2**14):
        letters = _EVERY[start : start + 2**14]
        text = quiet + quiet.join(letters) + quiet
        alone = {begin for _, (begin, end) in splitter.pre_tokenize_str(text) if end - begin == 1}
        inside += [ord(letter) for i, letter in enumerate(letters) if 2 * i + 1 in alone]
    return _joined(point for point in inside if chr(point) != quiet)


def _joined(points: Any) -> Ranges:
    found: list[tuple[int, int]] = []
    for point in points:
        if found and found[-1][1] == point - 1:
            found[-1] = found[-1][0], point
        else:
            found.append((point, point))
    return tuple(found)


def _ranges(ranges: Ranges) -> list[int]:
    return [len(ranges), *(word for pair in ranges for word in pair)]


def _offsets(parts: list[bytes]) -> list[int]:
    found = [0]
    for part in parts:
        found.append(found[-1] + len(part))
    return found


def check_tokenizer(json_text: str, compiled: bytes) -> None:
    """Compare the compiled tokenizer with the tokenizers library on the corpus.

    Args:
        json_text: The tokenizer.json.
        compiled: The tokenizer.bin.

    Raises:
        CheckpointError: A text differs. Names the first one.
    """
    tokenizer, tables = Tokenizer.from_str(json_text), TokenTables(compiled)
    for text in corpus(tokenizer):
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        found = tables.encode(text)
        if found != expected:
            raise CheckpointError(
                f"tokenizer.json: compiled, it reads {text!r} as {found}, not {expected}; report it"
            )
        back, shown = tables.decode(expected), tokenizer.decode(expected, skip_special_tokens=True)
        if back != shown:
            raise CheckpointError(
                f"tokenizer.json: compiled, it says {expected} as {back!r}, not {shown!r}"
            )


def corpus(tokenizer: Tokenizer, count: int = 1500) -> list[str]:
    """Return texts to compare tokenizers on, the same ones for a tokenizer each time.

    They are of several scripts, with emoji, control characters, added tokens, random characters and
    random bytes.

    Args:
        tokenizer: Its added tokens are among the texts.
        count: How many random texts.
    """
    rng = random.Random(0)
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    parts = [*_TEXTS, *added, *(letter for text in _TEXTS for letter in text)]
    kinds: tuple[Callable[[], str], ...] = (
        lambda: "".join(rng.choices(parts, k=rng.randrange(12))),
        lambda: "".join(rng.choices("ab cd\t\n'sre 12,.-", k=rng.randrange(24))),
        lambda: "".join(_EVERY[rng.randrange(rng.choice(_ENDS))] for _ in range(rng.randrange(16))),
        lambda: rng.randbytes(rng.randrange(24)).decode(errors="replace"),
    )
    return [*_TEXTS, *added, *(kinds[i % len(kinds)]() for i in range(count))]


_ENDS = (0x80, 0x250, 0x3000, 0xA000, len(_EVERY))  # common scripts are drawn more often
_TEXTS = (
    "a close-up high-contrast photo of Sydney Opera House, 8K",
    "<|User|>: Convert the formula into latex code.\n\n<|Assistant|>:",
    "I'm sure they'll say it's fine, don't you think? We've DON'T 'RE 're",
    "12345 3.14159 1,000,000 ½ ² Ⅷ ٣ १२",
    "  leading and trailing   ",
    "tabs\tand\r\nnewlines\n\n\nx \n y",
    "def f(x):\n    return x**2  # ok",
    "一只可爱的猫坐在窗台上。请描述这张图片！",
    "日本語のテキスト、猫が好きです。한국어 텍스트입니다",
    "Привет, как дела? Ünïcödé façade naïve Straße ÅÆØ İI ΑΣ ǅ",
    "مرحبا بالعالم שלום हिन्दी ไทย",
    "😀🎨 emoji 👩‍👩‍👧 flags 🇫🇷 e\u0301 ﬁ",
    "nbsp\u00a0zero\u200bwidth\u3000ideographic\u2028line \x00\x01\x1b\x7f\x85 \ufffd\ufeff",
    "ＦＵＬＬ　ｗｉｄｔｈ！？mixed中文English混合123テスト!!! ---",
)
