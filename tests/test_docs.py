"""Every code block of README.md, CONTRIBUTING.md and docs/*.md runs, or is listed here with the
reason why not. A page's blocks run in their order in one folder, as a reader would run them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from janus_edge.cli.app import app
from tests.pages import PAGES, ROOT, Block, Command, blocks, commands, make_folder, run_command

SHELL = ("sh", "console")
NOT_CODE = {"text": "formulas, layouts, output", "json": "data"}
# Commands that do not run here, by how they begin or what they hold, and why.
NOT_RUN = {
    r"(\S+/)?pip (install|uninstall|wheel)": "installs from the network; .ci/run does",
    r"sed .*constraints": "of the checkout; for a machine with a GPU",
    r"python3 -m venv": "an environment; .ci/run makes one",
    r"scripts/test|\.ci/run|(python -m )?pytest ": "tests, as this is one",
    r"scripts/build-native|cmake |gcc draw\.c|ONNXRUNTIME=": "tests/native/test_package.py does",
    r"(python3? )?native/fetch_headers|python3 native/": "downloads",
    r"scripts/gpu-check": "needs a GPU",
    r".*--backend tensorrt|.*--device cuda": "needs TensorRT or a GPU; tests/export/tensorrt",
    r"gcc .*fsanitize|LD_PRELOAD|C(C|XX)=clang|mkdir found|tar xf|cp ": "sanitizers and fuzzers; "
    "tests/native/test_sanitizers.py",
    r"fuzz/": "fuzzers run for minutes",
    r"(\S+/)?janus-edge (pull|push) |hf ": "the network; tests/hub",
    r".*\b(janus-pro|janusflow-1)": "needs published weights, or gigabytes of random ones",
    r"python tools/make_checkpoint": "gigabytes of random weights",
    r"python (-m janus_edge\.)?bench[/.]programs": "minutes to hours",
    r"janus-edge distill ": "minutes to hours; tests/distill",
    r"janus-edge train (my-|tiny-)|torchrun |janus-edge export runs/": "hours; tests/train",
    r"janus-edge generate --model runs/mine/bundle|tensorboard ": "needs a finished training",
    r"janus-edge eval (shapes|things) .*(--solver NAME|--record bench)": "writes a record",
    r".*\b(sdxl-vae|JanusFlow-1)": "needs published weights; tests/hub, tests/export",
}
# Commands that run with ``pytest -m slow`` alone.
SLOW = {
    r"janus-edge export ": "half a minute of two cores each",
    r"janus-edge data world": "minutes; tests/train",
    r"janus-edge eval shapes": "600 images: minutes",
}


def why_not_run(command: str) -> str | None:
    """Return why a command does not run in the quick form, None if it does."""
    return _reason(command, NOT_RUN | SLOW)


def _reason(command: str, table: dict[str, str]) -> str | None:
    return next((why for what, why in table.items() if re.match(what, command)), None)


def place(block: Block) -> str:
    """Return where a block stands, for a message."""
    return f"{block.page.relative_to(ROOT)}:{block.line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks(page: Path, tmp_path: Path) -> None:
    make_folder(tmp_path)
    for block in blocks(page):
        if block.language in SHELL:
            for command in commands(block):
                _check_options(command.text, block)
                if why_not_run(command.text) is None:
                    _run(command, block, tmp_path)
        elif block.language == "python":
            _run_python(block, tmp_path)
        elif block.language == "c":
            _check_c(block)
        else:
            assert block.language in NOT_CODE, f"{place(block)}: how is {block.language} run?"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_slow_blocks(page: Path, tmp_path: Path) -> None:
    make_folder(tmp_path)
    for block in blocks(page):
        for command in commands(block) if block.language in SHELL else ():
            if _reason(command.text, NOT_RUN) is None:
                _run(command, block, tmp_path)


def _run(command: Command, block: Block, folder: Path) -> None:
    done = run_command(command, folder)
    assert done.returncode == 0, f"{place(block)}: {command.text}\n{done.stderr}"
    assert command.output in ("", done.stdout), f"{place(block)}: {command.text}"


def _check_options(command: str, block: Block) -> None:
    """Options of a command of ours exist, also where it does not run here."""
    if not re.match(r"(\S+/)?janus-edge ", command):
        return
    _, *words = shlex.split(command)
    parser = typer.main.get_command(app)
    while (inner := getattr(parser, "commands", {})) and words and words[0] in inner:
        parser = inner[words.pop(0)]
    known = {"--help", *(option for each in parser.params for option in each.opts)}
    given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert given <= known, f"{place(block)}: janus-edge has no {', '.join(sorted(given - known))}"


def _run_python(block: Block, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block.text], cwd=folder, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, f"{place(block)}\n{done.stderr}"


def _check_c(block: Block) -> None:
    """A program, or the inside of a function. README's is also built and run, by
    tests/native/test_package.py."""
    text = block.text
    if "int main" not in text:
        headers = "#include <stdio.h>\n#include <stdlib.h>\n#include <janus_edge.h>\n"
        text = f"{headers}int fragment(void);\nint fragment(void) {{\n{text}\nreturn 0; }}\n"
    done = subprocess.run(
        ["gcc", "-std=c99", "-fsyntax-only", "-Wall", f"-I{ROOT}/native/include", "-xc", "-"],
        input=text,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, f"{place(block)}\n{done.stderr}"


def test_every_reason_has_a_command() -> None:
    """A row of NOT_RUN that no page needs any more goes."""
    texts = [
        command.text
        for page in PAGES
        for block in blocks(page)
        if block.language in SHELL
        for command in commands(block)
    ]
    assert [row for row in NOT_RUN if not any(re.match(row, text) for text in texts)] == []


def test_commands_stand_in_fences() -> None:
    """An indented block would not be run."""
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        found = re.findall(r"^ {4}(?:\$ )?(?:janus-edge|pip|python3?|scripts/) .*", text, re.M)
        assert found == [], page.name
