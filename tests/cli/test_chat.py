"""``janus-edge chat``: what each line does, piped and typed."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from janus_edge.cli.chatting import COMMANDS, Interrupted, Talk, handle
from janus_edge.cli.inline_images import kind_shown
from janus_edge.runtime.drawn import settings_in
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.events import Text
from janus_edge.runtime.everyday import Model, load


@pytest.fixture(scope="module")
def model(bundle_dir: Path) -> Model:
    return load(bundle_dir, num_threads=1)


@pytest.fixture
def talk(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Talk:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 10), "red").save(tmp_path / "red.png")
    return Talk(model, Console(file=io.StringIO(), highlight=False, width=120), "", seed=4)


def said(talk: Talk, *lines: str) -> str:
    file = talk.console.file
    assert isinstance(file, io.StringIO)
    before = len(file.getvalue())
    for line in lines:
        handle(talk, line)
    return file.getvalue()[before:]


def test_a_message_is_answered_as_the_model_does(talk: Talk, model: Model) -> None:
    wanted = model.ask(None, "hello")
    assert said(talk, "hello").strip() == wanted
    assert [turn.message for turn in talk.chat.turns] == ["hello"]
    assert said(talk, "", "   ") == ""


def test_a_drawn_image_is_a_part_of_the_conversation(talk: Talk, model: Model) -> None:
    assert "seed 4" in said(talk, "/draw a star")
    assert talk.drawn is not None
    assert np.array_equal(talk.drawn.pixels, model.draw("a star", seed=4).pixels)
    wanted = model.ask(talk.drawn, "what?")
    assert said(talk, "what?").strip() == wanted
    assert talk.chat.turns[-1].num_images == 1


def test_a_shown_image_goes_with_the_next_message_alone(talk: Talk, model: Model) -> None:
    assert "red.png: the next message is about it" in said(talk, "/image red.png")
    wanted = model.ask("red.png", "what?")
    assert said(talk, "what?").strip() == wanted
    assert talk.waiting == [] and talk.chat.turns[-1].num_images == 1
    assert said(talk, "and?") is not None and talk.chat.turns[-1].num_images in (0, 1)


def test_retry_goes_back_and_takes_another_seed(talk: Talk) -> None:
    assert "nothing to do again" in said(talk, "/retry")
    said(talk, "/image red.png", "what?")
    turns = len(talk.chat.turns)
    said(talk, "/retry")
    assert len(talk.chat.turns) in (turns, turns - 1)  # an answer may be blank
    said(talk, "/new", "/draw a star")
    first = talk.drawn
    said(talk, "/retry", "/retry")
    assert first is not None and talk.drawn is not None
    assert (first.seed, talk.drawn.seed) == (4, 6)
    assert len(talk.chat.state[2]) == 1  # the last one alone is shown


def test_seeds(talk: Talk) -> None:
    assert said(talk, "/seed") == "seed: 4\n"
    assert said(talk, "/seed 9") == "seed: 9\n"
    assert said(talk, "/seed random") == "seed: random\n"
    for odd in ("-1", "x", "9" * 40, "1.5", "²"):
        assert "give a whole number" in said(talk, f"/seed {odd}")
    said(talk, "/draw a star")
    first = talk.drawn
    said(talk, "/draw a star")
    assert first is not None and talk.drawn is not None and first.seed != talk.drawn.seed
    said(talk, "/seed 7", "/draw a star", "/draw a circle")
    assert talk.drawn.seed == 8 and said(talk, "/seed") == "seed: 9\n"


def test_a_retry_that_fails_leaves_what_there_was(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was shown since the answer stays shown."""
    said(talk, "hello", "/draw a star", "/image red.png")
    before, waiting = talk.chat.state, list(talk.waiting)

    def interrupted(*given: Any, **settings: Any) -> Iterator[Any]:
        raise Interrupted
        yield

    with monkeypatch.context() as patch:
        patch.setattr(talk.chat, "_draw", interrupted)
        assert "stopped" in said(talk, "/retry")
    assert talk.chat.state == before and talk.waiting == waiting
    said(talk, "/new", "hello", "/image red.png", "/retry")
    assert len(talk.waiting) == 1 and talk.chat.state[1] == ()


def test_an_image_of_a_conversation_says_so(talk: Talk, tmp_path: Path) -> None:
    said(talk, "/draw a star", "/save first.png", "/new")
    assert talk.chat.ask(None, "hello", max_tokens=4)
    said(talk, "/draw a star", "/save second.png")
    assert settings_in(tmp_path / "first.png")["seed"] == 4
    with pytest.raises(OptionError, match="followed a conversation, which it does not hold"):
        settings_in(tmp_path / "second.png")


def test_a_models_text_does_not_steer_the_terminal(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steering(*given: Any) -> Iterator[Any]:
        yield Text(text="a\x1b[2Jb\n\x9b", elapsed_ms=1.0)

    monkeypatch.setattr(talk.chat, "_ask", steering)
    assert said(talk, "hello") == "a\x1b[2Jb\n\x9b\n"  # to a program
    talk.console = Console(file=io.StringIO(), force_terminal=True)
    assert "\x1b[2J" not in said(talk, "hello") and "a\ufffd[2J" in said(talk, "hello")


def test_save_never_replaces_a_file(talk: Talk, tmp_path: Path) -> None:
    assert "no drawn image yet" in said(talk, "/save")
    said(talk, "/draw a star")
    assert said(talk, "/save") == "image-4.png\n"
    with Image.open(tmp_path / "image-4.png") as image:
        assert image.text["prompt"] == "a star" and image.text["seed"] == "4"
    assert said(talk, "/save red.png") != "red.png\n"
    with Image.open(tmp_path / "red.png") as image:
        assert image.size == (20, 10)
    assert "error: " in said(talk, "/save a.gif")
    assert "error: " in said(talk, "/save nowhere/x.png")


def test_help_lists_every_command(talk: Talk) -> None:
    text = said(talk, "/help")
    assert all(re.search(rf"^{re.escape(name)} ", text, re.MULTILINE) for name in COMMANDS)
    assert "there is no /nope; /help" in said(talk, "/nope")
    assert "there is no /[red]x" in said(talk, "/[red]x")
    assert said(talk, "/new") == "a new conversation\n" and talk.chat.turns == ()
    said(talk, "/quit")
    assert talk.is_over


def test_mistakes_do_not_end_it(talk: Talk) -> None:
    assert "error: " in said(talk, "/image none.png")
    assert "name a file" in said(talk, "/image")
    assert "say what to draw" in said(talk, "/draw")
    assert "error: the prompt" in said(talk, "/draw " + "star " * 600)
    assert "/new begins" not in said(talk, "star " * 600)
    assert talk.waiting == [] and talk.chat.turns == ()
    assert said(talk, "hello")


def test_a_full_conversation_says_how_to_go_on(talk: Talk) -> None:
    for _ in range(20):
        told = said(talk, "hello and again hello")
        if "error" in told:
            break
    assert (
        "error: the conversation and the question are" in told
        and "/new begins a new conversation" in told
    )
    assert "error" not in said(talk, "/new", "hello")


@pytest.mark.parametrize("encoding", ["utf-8:strict", "latin-1"])
def test_piped_lines_are_utf8_and_whole(bundle_dir: Path, tmp_path: Path, encoding: str) -> None:
    name = "a_folder_whose_name_is_longer_than_a_terminal_is_wide_" + 30 * "x"
    (tmp_path / name).mkdir()
    lines = f"/draw 고양이\n/save {name}/s.png\nh\udcffi\n"
    done = subprocess.run(
        [sys.executable, "-m", "janus_edge", "chat", "--model", str(bundle_dir)],
        input=lines.encode("utf-8", "surrogateescape"),
        cwd=tmp_path,
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "80"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert f"{name}/s.png".encode() in done.stdout.splitlines()
    assert settings_in(tmp_path / name / "s.png")["prompt"] == "고양이"


WRONG = ("/nothing", "/image no.png", "/image", "/draw", "/seed x", "/retry", "/save")


@pytest.mark.parametrize(("wrong", "code"), [("", 0), *((f"{line}\n", 1) for line in WRONG)])
def test_piped_lines(bundle_dir: Path, tmp_path: Path, wrong: str, code: int) -> None:
    """Lines after a wrong one are done, too."""
    done = subprocess.run(
        [sys.executable, "-m", "janus_edge", "chat", "--model", str(bundle_dir), "--seed", "1"],
        input=f"{wrong}/draw a star\n/save s.png\n/quit\nnot read\n",
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"JANUS_EDGE_HOME": str(tmp_path / "home")},
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines()[-1] == "s.png" and (tmp_path / "s.png").exists()
    assert not (tmp_path / "home/chat_history").exists()


EDITOR = "\x1b[?2004h"  # the line editor begins


class Terminal:
    """A program on a pseudo-terminal that shows text only."""

    def __init__(self, words: list[str], cwd: Path) -> None:
        self.child, self.fd = pty.fork()
        if self.child == 0:
            os.chdir(cwd)
            os.environ |= {"TERM": "xterm-256color", "JANUS_EDGE_HOME": str(cwd / "home")}
            os.environ["PROMPT_TOOLKIT_NO_CPR"] = "1"  # it does not answer questions
            os.execv(sys.executable, [sys.executable, "-m", "janus_edge", *words])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.seen, self.at = "", 0

    def until(self, text: str, seconds: float = 90) -> str:
        """Read until a text comes; return what came since the last one."""
        start, deadline = self.at, time.monotonic() + seconds
        while text not in self.seen[start:]:
            assert time.monotonic() < deadline, self.seen[-2000:]
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.fd, 65536).decode("utf-8", "replace")
                except OSError:
                    break
        self.at = self.seen.find(text, start) + len(text)
        return self.seen[start:]

    def quiet(self) -> str:
        """Read until nothing comes for a while; return what came."""
        start = self.at
        while select.select([self.fd], [], [], 0.3)[0]:
            self.seen += os.read(self.fd, 65536).decode("utf-8", "replace")
        self.at = len(self.seen)
        return self.seen[start:]

    def send(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def end(self) -> int:
        """Read all that is left, as a program waits for its terminal to take it; end."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.fd, 65536).decode("utf-8", "replace")
                except OSError:
                    break
        else:
            os.kill(self.child, signal.SIGKILL)
        _, status = os.waitpid(self.child, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_typed_lines(bundle_dir: Path, tmp_path: Path) -> None:
    """Blocks of colour stand for the image; Ctrl-C drops a line, Ctrl-D ends."""
    terminal = Terminal(["chat", "--model", str(bundle_dir), "--seed", "3"], tmp_path)
    terminal.until("/help lists the commands")
    terminal.until(">")
    time.sleep(1)  # what is typed while the editor starts is lost
    terminal.send("/draw a star\r")
    shown = terminal.until("seed 3")
    assert "▀" in shown or "\N{LOWER HALF BLOCK}" in shown
    terminal.until(">")
    time.sleep(0.3)
    terminal.send("half a line\x03")
    terminal.send("/save mine.png\r")
    terminal.until("mine.png\r\n")
    time.sleep(0.3)
    terminal.send("\x04")
    assert terminal.end() == 0
    assert (tmp_path / "mine.png").exists()
    assert "/draw a star" in (tmp_path / "home/chat_history").read_text(encoding="utf-8")


def test_generate_shows_blocks_if_asked(bundle_dir: Path, tmp_path: Path) -> None:
    words = ["generate", "a star", "--model", str(bundle_dir), "-o", "s.png"]
    for option, is_shown in (("--show", True), ("--no-show", False)):
        terminal = Terminal([*words, option], tmp_path)
        assert ("▀" in terminal.until("ms: ")) == is_shown
        assert terminal.end() == 0


def test_nothing_is_shown_where_there_is_no_terminal() -> None:
    assert kind_shown(None) == kind_shown(True) == kind_shown(False) == ""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_ctrl_c_at_any_moment(tmp_path: Path) -> None:
    """It stops the request, in one word; the display ends with it, and the chat goes on."""
    terminal = Terminal(["chat", "--model", "tiny-flow", "--threads", "1"], tmp_path)
    terminal.until("/help lists the commands")
    terminal.until(">")
    time.sleep(1)
    for tenths in range(8):
        terminal.quiet()
        terminal.send("/draw a star\r")
        terminal.until("drawing")
        time.sleep(tenths / 10)
        terminal.send("\x03")
        shown = terminal.until(EDITOR)
        assert "error" not in shown and "Traceback" not in shown
    terminal.quiet()
    terminal.send("/seed\r")
    assert "drawing" not in terminal.until("seed: random")
    terminal.quiet()
    terminal.send("\x04")
    assert terminal.end() == 0


def test_ctrl_c_stops_a_request_alone(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = talk.chat._draw

    def interrupted(*given: Any) -> Iterator[Any]:
        events = draw(*given)
        yield next(events)
        os.kill(os.getpid(), signal.SIGINT)
        yield from events

    monkeypatch.setattr(talk.chat, "_draw", interrupted)
    assert "stopped" in said(talk, "/draw a star")
    monkeypatch.undo()
    assert "seed 4" in said(talk, "/draw a star")
