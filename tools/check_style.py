"""Find what ruff, codespell and proselint cannot be told of: ``python tools/check_style.py``.

House idioms in prose where the field has a word: it reads README.md, CONTRIBUTING.md, CHANGELOG.md,
docs/*.md (code left out) and the docstrings of the package. docs/design.md, "Vocabulary", is the
vocabulary. Long functions: a body, without signature and docstring, has at most MAX_LINES lines
(the options of a command are its signature).
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md")
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CODE = ("tools", *_PROJECT["tool"]["setuptools"]["package-dir"].values())
MAX_LINES = 40
QUOTES = ("docs/design.md", "tools/check_style.py")  # name the phrases that they replace

RULES = {  # a phrase, and what to write
    r"halves(?! the)": "fp16, or half precision for fp16 and bf16",
    r"rounded weights|weights (are )?rounded to (\d|int|few)": "quantized weights",
    r"(Of|(?<=[.,;:(] )of) an? (Janus|JanusFlow|flow)": "JanusFlow's, or a whole sentence",
    r"our own (decoder|code)|code of our own|a decoder of our own|native decoder": "CPU kernels",
    r"memory's speed": "memory bandwidth",
    r"pictures?": "image",
    r"without a word": "silently, or without a warning",
    r"named alike|one file a Python file": "each C++ file mirrors the Python file of its name",
    r"whole outputs": "per channel",
    r"levels (from|between|of) -?\d+": "quantized values",
    r"the house|of the house": "the project, or the design",
    r"what is no (image|JSON|text|UTF-8)": "what is not ...",
    r"a step an image|an image a step": "per image, per step",
}
_RULES = [(re.compile(rf"\b(?:{phrase})\b"), instead) for phrase, instead in RULES.items()]


def prose(text: str) -> str:
    """Return a page with its code blanked, so that lines keep their numbers."""
    text = re.sub(
        r"^```.*?^```$", lambda found: "\n" * found[0].count("\n"), text, flags=re.M | re.S
    )
    return re.sub(r"`[^`\n]*`", "", text)


def docstrings(text: str) -> Iterator[tuple[int, str]]:
    """Yield each docstring of a module with the number of its first line."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            found = ast.get_docstring(node, clean=False)
            if found is not None:
                yield node.body[0].lineno, found


def findings(name: str, first: int, text: str) -> Iterator[str]:
    """Yield a line for each phrase: where it stands, and what to write."""
    for number, line in enumerate(text.splitlines(), first):
        for pattern, instead in _RULES:
            for found in pattern.finditer(line):
                yield f'{name}:{number}: "{found[0]}"; write {instead}'


def long_functions(name: str, text: str) -> Iterator[str]:
    """Yield a line for each function that is too long."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first, *_ = node.body
            has_docstring = ast.get_docstring(node) is not None
            start = first.end_lineno if has_docstring else first.lineno - 1
            if (lines := (node.end_lineno or 0) - (start or 0)) > MAX_LINES:
                yield f"{name}:{node.lineno}: {node.name} has {lines} lines; {MAX_LINES} at most"


def main() -> int:
    """Print what was found; return 1 if anything was."""
    found: list[str] = []
    for path in sorted(path for pattern in PAGES for path in ROOT.glob(pattern)):
        name = str(path.relative_to(ROOT))
        if name not in QUOTES:
            found += findings(name, 1, prose(path.read_text(encoding="utf-8")))
    for path in sorted(
        path for folder in (*CODE, "tests") for path in (ROOT / folder).rglob("*.py")
    ):
        name, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        found += long_functions(name, text)
        if name not in QUOTES and not name.startswith("tests/"):
            for first, words in docstrings(text):
                found += findings(name, first, re.sub(r"`[^`\n]*`", "", words))
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
