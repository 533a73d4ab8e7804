"""The files and names in CONTRIBUTING's table of what to add exist, and its example works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.pages import ROOT, blocks, package_folders

PAGE = ROOT / "CONTRIBUTING.md"
ROOMS = package_folders()
ROWS = {
    cells[1].strip(): (cells[2], cells[3].strip(" `"))
    for line in PAGE.read_text(encoding="utf-8").partition("| to add |")[2].splitlines()
    if len(cells := line.split("|")) == 5 and "---" not in line
}


@pytest.mark.parametrize("row", ROWS)
def test_what_a_row_names_exists(row: str) -> None:
    """Paths exist; a name before "of", "(" or in a path's row stands in one of the row's files."""
    words, files = _words(row)
    assert files and [str(path) for path in files if not path.exists()] == []
    texts = "".join(
        each.read_text(encoding="utf-8")
        for path in files
        for each in ([path] if path.is_file() else path.glob("*.py"))
    )
    names = [word for word in words if re.fullmatch(r"[A-Za-z_-]+", word)]
    assert [name for name in names if not re.search(rf"\b{name}\b", texts)] == []


@pytest.mark.parametrize("row", ROWS)
def test_each_file_of_a_row_has_its_example(row: str) -> None:
    """So the row names every file that one more takes; spelling differs between languages."""
    _, files = _words(row)
    assert [str(path) for path in files if not _knows(path, ROWS[row][1])] == []


def _words(row: str) -> tuple[list[str], list[Path]]:
    """Return what a row has in backticks, and which of that are files."""
    words = re.findall(r"`([^`]+)`", ROWS[row][0])
    return words, [ROOT / word for word in words if "/" in word or word.endswith((".toml", ".py"))]


def _knows(path: Path, example: str) -> bool:
    """Return True if the file, or one in the folder, has the example in its name or its text."""
    files = [each for each in ([path] if path.is_file() else path.rglob("*")) if each.is_file()]
    names = [str(each.relative_to(ROOT)) for each in files]
    texts = [each.read_text(encoding="utf-8", errors="ignore") for each in files]
    return any(_plain(example) in _plain(text) for text in (*names, *texts))


def _plain(text: str) -> str:
    return re.sub(r"[-_ ]", "", text.lower())


def test_the_example_of_a_command() -> None:
    """Registered as ``cli/app.py`` does it, it counts begin of sentence, roles and the text."""
    (block,) = blocks(PAGE, "python")
    names: dict[str, typer.models.CommandFunctionType] = {}
    exec(compile(block.text, "cli/count.py", "exec"), names)
    app = typer.Typer()
    app.command("count")(names["count"])
    done = CliRunner().invoke(app, ["three red circles"])
    assert done.exit_code == 0 and int(done.output) > 3


def test_the_words_of_the_vocabulary_exist() -> None:
    """Each name in docs/design.md's table of words stands in the language that it is said of."""
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    table = text.partition("## Vocabulary")[2].partition("\n## ")[0]
    rows = [line.split("|")[3:6] for line in table.splitlines() if line.startswith("| ")][1:]
    sources = [
        [path for room in ROOMS for path in (ROOT / room).rglob("*.py")],
        [ROOT / "native/include/janus_edge.h"],
        [*(ROOT / "native/core").iterdir(), *(ROOT / "native/include").iterdir()],
    ]
    for column, files in enumerate(sources):
        code = "".join(f"{path.name}\n{path.read_text(encoding='utf-8')}" for path in files)
        words = [word for row in rows for word in re.findall(r"`([^`]+)`", row[column])]
        assert len(words) > 5
        names = [re.split(r"[.*]", word.strip("-"))[0] for word in words]
        assert [name for name in names if name and name not in code] == []
