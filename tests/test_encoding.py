"""Text files are UTF-8 in every locale: each call names it, and commands run in other locales."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.pages import ROOT, package_folders

FOLDERS = (*package_folders(), "scripts", "tests", "tools")
_OPEN = ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile")  # text if a mode says so


def _calls(tree: ast.AST) -> Iterator[tuple[str, int, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            yield name, node.lineno, node


def _is_text(name: str, call: ast.Call) -> bool:
    if name in ("read_text", "write_text") and isinstance(call.func, ast.Attribute):
        return True
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    for word in ("text", "universal_newlines"):  # of subprocess
        if ast.unparse(given.get(word, ast.Constant(None))) == "True":
            return True
    modes = [node.value for node in (*call.args, *given.values()) if isinstance(node, ast.Constant)]
    return name in _OPEN and any(mode in ("r", "w", "a", "x", "r+", "w+", "rt") for mode in modes)


def in_the_locales_encoding(source: str) -> list[int]:
    """Return the lines of calls that read or write text and do not name an encoding."""
    return [
        line
        for name, line, call in _calls(ast.parse(source))
        if _is_text(name, call) and not any(k.arg == "encoding" for k in call.keywords)
    ]


def test_every_text_file_is_opened_as_utf8() -> None:
    """Ruff's PLW1514 sees only what it can infer to be a path; this goes by the method's name."""
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in in_the_locales_encoding(path.read_text(encoding="utf-8"))
    ]
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "p.read_text(**k)",
        "p.write_text(t)",
        'p.open("a")',
        'open(p, mode="w")',
        "run(w, text=True)",
    ],
)
def test_what_counts(line: str) -> None:
    assert in_the_locales_encoding(line) == [1]
    assert in_the_locales_encoding(line[:-1] + ', encoding="utf-8")') == []


# ASCII is the strictest: any other byte read or letter written in the locale's encoding raises.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_exports_and_draws(checkpoint_dir: Path, tmp_path: Path) -> None:
    """A tokenizer with words outside of ASCII, a config with roles outside of it."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint_dir, folder)
    config = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(config.replace("User", "Übung 用户"), encoding="utf-8")
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    added = Tokenizer.from_str(text)
    added.add_tokens(["Übung"])
    (folder / "tokenizer.json").write_text(added.to_str(), encoding="utf-8")
    for words in (
        ["export", str(folder), "bundle", "--max-length", "90"],
        ["generate", "a star", "--model", "bundle"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "janus_edge", *words],
            cwd=tmp_path,
            env=os.environ | ASCII,
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "bundle" / "manifest.json").read_text(encoding="utf-8"))
    assert written["prompt"]["user_role"] == "<|Übung 用户|>"
    assert "Übung" in (tmp_path / "bundle" / "tokenizer.json").read_text(encoding="utf-8")
