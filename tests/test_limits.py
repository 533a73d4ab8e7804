"""The limits stand in three places: Python, C++ and docs/bundle.md."""

from __future__ import annotations

import re
from pathlib import Path

from janus_edge.runtime import limits

ROOT = Path(__file__).resolve().parent.parent
_NAMES = {  # of native/core/limits.hpp, where the name is not the key's
    "manifest.json": "kManifestBytes",
    "manifest.sha256": "kChecksumBytes",
    "tokenizer.json": "kTokenizerBytes",
    "tokenizer.bin": "kTokenizerBinBytes",
    "kernel": "kKernelBytes",
    "component": "kComponentBytes",
}
_OTHERS = {
    "kCached": limits.MOST_CACHED,
    "kRows": limits.MOST_ROWS,
    "kDimension": limits.MOST_DIMENSION,
    "kAxes": limits.MOST_AXES,
    "kOffset": limits.MOST_OFFSET,
    "kWord": limits.MOST_WORD,
    "kRole": limits.MOST_ROLE,
    "kPrompt": limits.MOST_PROMPT,
    "kWholeTable": limits.WHOLE_TABLE,
    "kMiB": limits.MIB,
}


def _native() -> dict[str, int]:
    text = (ROOT / "native/core/limits.hpp").read_text(encoding="utf-8")
    found = {}
    for name, value in re.findall(r"(k\w+) = ([^,;]+)[,;]", text):
        spelt = value.replace("int64_t{1}", "1").replace("kMiB", str(limits.MIB))
        assert re.fullmatch(r"[0-9a-fA-Fx <*]+", spelt), value
        found[name] = int(eval(spelt))  # digits and operators alone
    return found


def test_native_code_has_the_same_limits() -> None:
    spelt = {
        _NAMES.get(key) or f"k{key.title().replace('_', '')}": value
        for key, value in (limits.MOST_BYTES | limits.MOST_SIZES).items()
    }
    found = _native()
    assert found.pop("kNoteBytes") == limits.MIB
    assert found == spelt | _OTHERS


def test_the_docs_say_the_same() -> None:
    text = (ROOT / "docs/bundle.md").read_text(encoding="utf-8")
    section = text[text.index("## Limits") : text.index("## tokenizer.bin")]
    said = {key: int(value) for key, value in re.findall(r"\| `(\S+)`.* \| (\d+) \|", section)}
    assert said == limits.MOST_BYTES | limits.MOST_SIZES
