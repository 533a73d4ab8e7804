"""What a chat on the terminal does with a line: a message, or a command that begins with ``/``."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from rich.console import Console

from janus_edge.cli.inline_images import print_image, sharpening
from janus_edge.cli.terminal import one_line, without_controls
from janus_edge.runtime.drawn import DrawnImage
from janus_edge.runtime.errors import JanusEdgeError, PromptError
from janus_edge.runtime.everyday import Chat, Model
from janus_edge.runtime.image import load_image
from janus_edge.runtime.image_file import encode, format_of
from janus_edge.runtime.output import write_new
from janus_edge.runtime.requests import MAX_SEED, random_seed

RETRY_TEMPERATURE = 0.8  # of an answer that is asked for again


class Interrupted(BaseException):  # no Exception: engines make their own errors of those
    """Ctrl-C during a request."""


@dataclass
class Talk:
    """A chat on the terminal.

    Attributes:
        model: The model.
        console: Where it is shown.
        kind: How the terminal shows images.
        chat: The conversation.
        seed: Of the next drawing; None for a random one each time.
        waiting: Images that the next message is about.
        drawn: The last drawn image.
        again: What ``/retry`` does.
        is_over: True to end.
        has_failed: True once a line could not be done.
    """

    model: Model
    console: Console
    kind: str
    chat: Chat = field(init=False)
    seed: int | None = None
    waiting: list[np.ndarray] = field(default_factory=list)
    drawn: DrawnImage | None = None
    again: Callable[[], None] | None = None
    is_over: bool = False
    has_failed: bool = False

    def __post_init__(self) -> None:
        """Begin the conversation."""
        self.chat = self.model.chat()


def handle(talk: Talk, line: str) -> None:
    """Do what a line says, and show what comes of it.

    Args:
        talk: The chat.
        line: What the user typed.
    """
    line = line.strip()
    word, _, rest = line.partition(" ")
    try:
        if not line:
            return
        if not line.startswith("/"):
            say(talk, line)
        elif word in COMMANDS:
            COMMANDS[word].run(talk, rest.strip())
        else:
            refuse(talk, f"there is no {one_line(word)}; /help lists the commands")
    except JanusEdgeError as error:
        talk.has_failed = True
        talk.console.print(f"error: {error}", style="red", markup=False, highlight=False)
        if isinstance(error, PromptError) and talk.chat.state != talk.model.chat().state:
            talk.console.print("/new begins a new conversation, which has room again")
    except Interrupted:
        talk.console.print("stopped", style="dim")


def refuse(talk: Talk, why: str) -> None:
    """Say why a line cannot be done."""
    talk.has_failed = True
    talk.console.print(why, markup=False)


def say(talk: Talk, message: str, settings: dict[str, Any] | None = None) -> None:
    """Answer a message, about the images that wait and those before."""
    before, images = talk.chat.state, list(talk.waiting)

    def retry() -> None:
        later = [each for each in talk.waiting if not any(each is shown for shown in images)]
        talk.chat.state = before
        talk.waiting = list(images)
        say(talk, message, {"temperature": RETRY_TEMPERATURE, "seed": random_seed()})
        talk.waiting = later

    talk.again = retry
    asked = talk.chat.ask_stream(images, message, **(settings or {}))
    with interruptible() as working, asked as stream, working():
        for piece in stream:
            shown = without_controls(piece) if talk.console.is_terminal else piece
            talk.console.print(shown, end="", markup=False, highlight=False, soft_wrap=True)
    talk.console.print()
    talk.waiting = []


def draw(talk: Talk, prompt: str) -> None:
    """Draw an image; the next message is about it."""
    if not prompt:
        refuse(talk, "say what to draw: /draw a red apple")
        return
    before = talk.chat.state
    seed = random_seed() if talk.seed is None else talk.seed

    def retry() -> None:
        talk.chat.state = before
        draw(talk, prompt)

    talk.again = retry
    with interruptible() as working, sharpening(talk.console, talk.kind) as show:
        show(None, "drawing")
        with talk.chat.draw_stream(prompt, seed=seed) as stream, working():
            for each in stream:
                if isinstance(each, DrawnImage):
                    talk.drawn = each
                    if talk.seed is not None:
                        talk.seed = (talk.seed + 1) % (MAX_SEED + 1)
                    show(each.pixels, f"seed {each.seed}")
                else:
                    show(each.pixels, f"drawing, {each.done} done")
    if not talk.kind:
        talk.console.print(f"drawn with seed {seed}; /save FILE writes it")


def show_image(talk: Talk, name: str) -> None:
    """Take an image file; the next message is about it."""
    if not name:
        refuse(talk, "name a file: /image photo.jpg")
        return
    if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"":  # as terminals paste a name
        name = name[1:-1]
    pixels = np.asarray(load_image(Path(name).expanduser()))
    talk.waiting.append(pixels)
    print_image(pixels, talk.console, talk.kind)
    talk.console.print(f"{one_line(name)}: the next message is about it", markup=False)


def set_seed(talk: Talk, word: str) -> None:
    """Set the seed of drawings, or say what it is."""
    if word == "random":
        talk.seed = None
    elif word.isascii() and word.isdecimal() and int(word) <= MAX_SEED:
        talk.seed = int(word)
    elif word:
        refuse(talk, "give a whole number from 0 on, or random: /seed 7")
        return
    talk.console.print(f"seed: {'random' if talk.seed is None else talk.seed}")


def retry(talk: Talk, _rest: str) -> None:
    """Do the last drawing or answer again, with another seed."""
    if talk.again is None:
        refuse(talk, "there is nothing to do again yet")
        return
    before = talk.chat.state, talk.waiting, talk.again
    try:
        talk.again()
    except BaseException:  # what it would have replaced stays
        talk.chat.state, talk.waiting, talk.again = before
        raise


def save(talk: Talk, name: str) -> None:
    """Write the last drawn image to a new file."""
    if talk.drawn is None:
        refuse(talk, "there is no drawn image yet; /draw makes one")
        return
    path = Path(name or f"image-{talk.drawn.seed}.png").expanduser()
    content = encode(talk.drawn.pixels, format_of(path), talk.drawn.texts)
    talk.console.print(str(write_new(path, content)), markup=False, highlight=False)


def new(talk: Talk, _rest: str) -> None:
    """Begin a new conversation."""
    talk.chat, talk.waiting, talk.again = talk.model.chat(), [], None
    talk.console.print("a new conversation")


def help_(talk: Talk, _rest: str) -> None:
    """List the commands."""
    width = max(len(f"{name} {each.takes}") for name, each in COMMANDS.items())
    for name, each in COMMANDS.items():
        talk.console.print(f"{f'{name} {each.takes}':{width}}  {each.what}", markup=False)
    talk.console.print("anything else is a message; Ctrl-C stops a request, Ctrl-D ends the chat")


def leave(talk: Talk, _rest: str) -> None:
    """End the chat."""
    talk.is_over = True


@dataclass(frozen=True)
class Command:
    """A command: what follows its name, what it does, and how."""

    takes: str
    what: str
    run: Callable[[Talk, str], None]


COMMANDS = {
    "/draw": Command("PROMPT", "draw an image; the next message is about it", draw),
    "/image": Command("FILE", "show an image; the next message is about it", show_image),
    "/seed": Command("N", "seed of drawings; random takes another one each time", set_seed),
    "/retry": Command("", "the last drawing or answer again, with another seed", retry),
    "/save": Command("FILE", "write the last drawn image; PNG, JPEG or WebP", save),
    "/new": Command("", "begin a new conversation", new),
    "/help": Command("", "this list", help_),
    "/quit": Command("", "end the chat", leave),
}


@contextmanager
def interruptible() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Yield what a request works in: there a Ctrl-C raises Interrupted, and the chat goes on.

    Outside, where the display begins and ends, a Ctrl-C waits for the work to begin, or comes too
    late: the display's thread must not be left to write on.
    """
    is_asked = is_working = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal is_asked, is_working
        is_asked = True
        if is_working:
            is_working = False
            raise Interrupted

    @contextmanager
    def working() -> Iterator[None]:
        nonlocal is_working
        is_working = not is_asked
        if is_asked:
            raise Interrupted
        try:
            yield
        finally:
            is_working = False

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield working
    finally:
        signal.signal(signal.SIGINT, before)
