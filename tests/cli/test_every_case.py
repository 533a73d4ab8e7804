"""Every command and option with every odd value: it ends in time, by a known code, in one line.

The list is made from the app itself, so that a new option is in it. Each case changes one thing of
a command that works. ``-m slow``: every value for every option, with commands that take long run to
their end, and in other locales with streams closed, in processes of their own.
"""

from __future__ import annotations

import functools
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import typer
from PIL import Image

from janus_edge.cli.app import app
from janus_edge.cli.main import run
from janus_edge.runtime import output

_BOUND_S = 60
_NUMBERS = ("0", "1", "-1", "1.5", "nan", "inf", "-inf", "1e-40", "1e999", "2147483648", "9" * 400)
_TEXTS = ("", " ", "-", "--", "x", "\udcff\udcfe", "é★", "a\nb", "\x1b[2J", "x" * 70_000, "%s{}")
_PATHS = (
    ".",
    "folder",
    "folder/none/x",
    "none",
    "text.txt",
    "cut.png",
    "empty",
    "fifo",
    "loop",
    "dangling",
    "link.png",
    "locked/out.png",
    "/dev/null",
    "/dev/full",
    "/proc/none/x",
    "n" * 300,
    "a.gif",
    "b\udcff.png",
)
_VALUES = {
    "number": (*_NUMBERS, *_TEXTS[:6]),
    "path": (*_PATHS, *_TEXTS[:7]),
    "text": (*_TEXTS, *_PATHS[:6], *_NUMBERS[:3], "n" * 300),
}
_ALL = (*_NUMBERS, *_TEXTS, *_PATHS)

# What works, as fast as can be; {bundle}, {checkpoint}: folders.
COMMANDS: dict[str, tuple[str, ...]] = {
    "generate": ("a star", "--model", "{bundle}", "--threads", "1"),
    "ask": ("p.png", "what?", "--model", "{bundle}", "--max-tokens", "2", "--threads", "1"),
    "chat": ("--model", "{bundle}", "--threads", "1"),
    "batch": ("items.jsonl", "mine", "--model", "{bundle}", "--threads", "1"),
    "serve": ("--model", "nowhere", "--port", "0"),  # it would not end; tests/serve
    "inspect": ("{bundle}",),
    "doctor": ("{bundle}",),
    "models": (),
    "models list": (),
    "models remove": ("mine",),
    "bench": ("{bundle}", "--runs", "1", "--warmups", "0", "--threads", "1", "--max-tokens", "2"),
    "eval": ("shapes", "--model", "{bundle}", "--num-prompts", "6", "--num-questions", "6"),
    "export": ("{checkpoint}", "mine"),
    "convert": ("{checkpoint}", "mine"),
    "train": ("r.toml", "--data", "data", "--start", "{checkpoint}", "-o", "run", "--fp32"),
    "distill": ("{bundle}", "-o", "mine", "--images", "2", "--steps", "1"),
    "pull": ("owner/name",),
    "push": ("{bundle}", "owner/name", "--license", "mit"),
    "data build": ("rows.jsonl", "mine", "--samples-per-shard", "2"),
    "data check": ("set.tar",),
    "data world": ("things", "mine", "--scenes", "10"),
    "data show": ("set.tar",),
}
# What is named in place of a folder, so that the command fails early instead of working for long.
_FOLDERS = ("{bundle}", "{checkpoint}")
_LONG = {
    "serve": "nowhere",
    **dict.fromkeys(("bench", "eval", "distill"), "{bundle}"),
    **dict.fromkeys(("export", "convert", "train"), "{checkpoint}"),
}


@functools.cache
def _parameters() -> tuple[tuple[str, Any], ...]:
    """Each command's name with each of its options and arguments."""

    def walk(group: Any, before: str) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            path = f"{before} {name}".strip()
            for parameter in command.params:
                yield path, parameter
            if hasattr(command, "commands"):
                yield from walk(command, path)

    return tuple(walk(typer.main.get_command(app), ""))


def _cases() -> list[tuple[str, str]]:
    """Each command with each option (a flag's ends in "!"), or the place of each argument."""
    found = []
    for path, parameter in _parameters():
        if path in COMMANDS:
            is_option = parameter.param_type_name == "option"
            name = parameter.opts[-1] if is_option else f"<{parameter.name}>"
            found.append((path, f"{name}!" if is_option and parameter.is_flag else name))
    return sorted(set(found))


def _kind(path: str, name: str) -> str:
    """What an option or argument takes."""
    for command, parameter in _parameters():
        if command == path and (name in parameter.opts or name == f"<{parameter.name}>"):
            hint = str(parameter.type_descriptor.annotation)
            return (
                "path" if "Path" in hint else "number" if re.search("int|float", hint) else "text"
            )
    return "text"


def _words(path: str, name: str, value: str, quick: bool) -> list[str]:
    """A command's words with one value in place of what is there, or added."""
    words = list(COMMANDS[path])
    if quick and path in _LONG:
        words = ["nowhere" if word == _LONG[path] else word for word in words]
    if name.startswith("<"):
        arguments = [p for c, p in _parameters() if c == path and p.param_type_name == "argument"]
        at = [f"<{p.name}>" for p in arguments].index(name)
        words[at : at + 1] = [value]
    elif name.endswith("!"):
        words.append(name[:-1])
    elif name in words:
        words[words.index(name) + 1] = value
    else:
        words += [name, value]
    return [*path.split(), *words]


@pytest.fixture
def folder(
    tmp_path: Path, bundle_dir: Path, checkpoint_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A working folder with things of all kinds; no hub, and no long waits for a pipe's reader."""
    monkeypatch.setattr(output, "_READER_S", 0.01)
    monkeypatch.setenv("JANUS_EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    work = tmp_path / "work"
    (work / "folder").mkdir(parents=True)
    monkeypatch.chdir(work)
    _fill(work)
    return work


def _fill(work: Path) -> None:
    Image.new("RGB", (50, 30), "red").save(work / "p.png")
    whole = (work / "p.png").read_bytes()
    for name, content in (("cut.png", whole[:60]), ("text.txt", b"hello"), ("empty", b"")):
        (work / name).write_bytes(content)
    (work / "rows.jsonl").write_text('{"image": "p.png", "caption": "a star"}\n', encoding="utf-8")
    (work / "items.jsonl").write_text('{"prompt": "a star"}\n', encoding="utf-8")
    with tarfile.open(work / "set.tar", "w:") as tar:
        tar.add(work / "text.txt", "text.txt")
    shutil.copy(Path(__file__).parent.parent / "train/recipes/mini.toml", work / "r.toml")
    turns, caption = b'{"turns": [{"user": "what?", "assistant": "a star"}]}', b'{"caption": "a"}'
    roles = {"generation": caption, "class_prompts": caption, "understanding": turns, "text": turns}
    for role, text in roles.items():
        (work / "data" / role).mkdir(parents=True)
        (work / "said.json").write_bytes(text)
        with tarfile.open(work / "data" / role / "0.tar", "w:") as tar:
            tar.add(work / "said.json", "0.json")
            if role != "text":
                tar.add(work / "p.png", "0.png")
    os.mkfifo(work / "fifo")
    for name, target in (("loop", "loop"), ("dangling", "gone/x"), ("link.png", "p.png")):
        (work / name).symlink_to(target)
    (work / "locked").mkdir(mode=0o555)


class Bound(BaseException):
    """A case took too long."""


def _run(words: list[str]) -> int:
    """Run in this process, for a time at most."""

    def late(number: int, frame: FrameType | None) -> None:
        raise Bound

    before = signal.signal(signal.SIGALRM, late)
    stdin, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(b"a star\n"), "utf-8")
    signal.alarm(_BOUND_S)
    try:
        return run(words)
    finally:
        signal.alarm(0)
        sys.stdin = stdin
        signal.signal(signal.SIGALRM, before)


def complaint(code: int, out: str, err: str) -> str | None:
    """What is wrong with how a command ended."""
    if code not in (0, 1, 2, 130):
        return f"code {code}"
    for word in ("unexpected", "Traceback", "Exception ignored"):
        if word in out + err:
            return word
    errors = [line for line in err.splitlines() if not line.startswith("note: ")]
    if code != 0 and (len(errors) != 1 or not errors[0].startswith("error: ")):
        return f"code {code} with {len(errors)} lines"
    return None


def _check(
    path: str, name: str, values: tuple[str, ...], quick: bool, folders: dict[str, Path], capfd: Any
) -> None:
    wrong = []
    for value in values[:1] if name.endswith("!") else values:
        changed = _words(path, name, value, quick)
        words = [word.format(**folders) if word in _FOLDERS else word for word in changed]
        try:
            code = _run(words)
        except Bound:
            code = -1
        out, err = capfd.readouterr()
        if found := complaint(code, out, err):
            wrong.append(f"{' '.join(words)[:200]!r}: {found}: {err[-300:]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", [path for path in COMMANDS if path not in _LONG])
def test_a_call_that_works(
    folder: Path, bundle_dir: Path, capfd: pytest.CaptureFixture[str], path: str
) -> None:
    """But for what is not there: a hub, and a pulled model to remove."""
    words = [str(bundle_dir) if word == "{bundle}" else word for word in COMMANDS[path]]
    code = _run([*path.split(), *words])
    out, err = capfd.readouterr()
    assert complaint(code, out, err) is None
    assert code == (1 if path in ("models remove", "pull", "push") else 0), err


@pytest.mark.parametrize(("path", "name"), _cases())
def test_one_odd_value(
    folder: Path,
    bundle_dir: Path,
    checkpoint_dir: Path,
    capfd: pytest.CaptureFixture[str],
    path: str,
    name: str,
) -> None:
    """Of each option and argument, those that are odd for its kind."""
    folders = {"bundle": bundle_dir, "checkpoint": checkpoint_dir}
    _check(path, name, _VALUES[_kind(path, name)], True, folders, capfd)
    assert Path("/dev/null").is_char_device() and (folder / "fifo").is_fifo()
    assert (folder / "link.png").is_symlink() and (folder / "text.txt").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("path", "name"), _cases())
def test_every_value(
    folder: Path,
    bundle_dir: Path,
    checkpoint_dir: Path,
    capfd: pytest.CaptureFixture[str],
    path: str,
    name: str,
) -> None:
    """All values, and what takes long to its end."""
    folders = {"bundle": bundle_dir, "checkpoint": checkpoint_dir}
    _check(path, name, _ALL, False, folders, capfd)


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8", "en_US.ISO-8859-1"])
@pytest.mark.parametrize("streams", ["", ">&-", "2>&-", "<&-", ">/dev/full", "| true"])
@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_locales_and_streams(
    folder: Path, bundle_dir: Path, checkpoint_dir: Path, path: str, streams: str, locale: str
) -> None:
    """In a process of its own, without UTF-8 mode, with a prompt that not every locale has."""
    folders = {"bundle": bundle_dir, "checkpoint": checkpoint_dir}
    words = [word.format(**folders) if word in _FOLDERS else word for word in COMMANDS[path]]
    words = ["ein Stern \u2605" if word == "a star" else word for word in words]
    locale_words = [f"LC_ALL={locale}", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0"]
    program = ["env", *locale_words, sys.executable, "-m", "janus_edge"]  # bash complains of some
    line = shlex.join([*program, *path.split(), *words])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line} {streams}"],
        capture_output=True,
        timeout=_BOUND_S * 5,
    )
    out, err = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
    found = complaint(done.returncode, out, err)
    if streams in ("2>&-", "| true") and done.returncode == 1:  # there is no place for a line
        found = None if "Traceback" not in err else found
    assert found is None, (line, found, err)


def test_every_command_is_in_the_list() -> None:
    assert {path for path, _ in _parameters()} - {"data"} <= set(COMMANDS)
