"""The code blocks of README.md, CONTRIBUTING.md and docs/*.md, and a folder to run them in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def package_folders() -> list[str]:
    """Name the folders that pyproject.toml installs as packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return list(project["tool"]["setuptools"]["package-dir"].values())


@dataclass(frozen=True)
class Block:
    """A fenced block. ``line`` is the number of its first line of text, from 1."""

    page: Path
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A shell command; ``output`` is what the page shows below it, "" where it shows nothing."""

    text: str
    output: str = ""


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """Return a page's fenced blocks, of one language or of all."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(page, text.count("\n", 0, match.start(2)) + 1, match[1], match[2])
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    ]
    return [block for block in found if language in (None, block.language)]


def commands(block: Block) -> list[Command]:
    """Return a shell block's commands: joined at ``\\``, parted at ``&&``, without comments.

    In a ``console`` block a command follows ``$ ``, and its output follows the command.
    """
    joined = block.text.replace("\\\n", " ")
    if block.language == "console":
        pairs = re.findall(r"^\$ ([^\n]*)\n((?:(?!\$ )[^\n]*\n)*)", joined, re.M)
        return [Command(line, output) for line, output in pairs]
    lines = (re.sub(r"(^|\s)#.*", "", line) for line in joined.splitlines())
    return [Command(part.strip()) for line in lines for part in line.split(" && ") if part.strip()]


def make_folder(folder: Path) -> None:
    """Lay out what commands expect: parts of a checkout, a reader's BUNDLE and CHECKPOINT."""
    (folder / ".venv").symlink_to(sys.prefix)
    for name in ("bundles", "checkpoints", "docs", "native", "tests", "tools"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "bundles/tiny-janus", folder / "BUNDLE")
    (folder / "CHECKPOINT").symlink_to(ROOT / "checkpoints/tiny-janus")


def run_command(command: Command, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder by bash, with this environment's programs first.

    Bundles that it writes, and the cache, stay below the folder.
    """
    programs = Path(sys.executable).parent
    env = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "JANUS_EDGE_HOME": str(folder / "home"),
    }
    # a page that shows several exports to one place shows each on its own
    text = re.sub(r"^(janus-edge export \S+ BUNDLE)", r"\1 --replace", command.text)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )
