"""``janus-edge chat``: talk with a model, draw and show images in one conversation."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from janus_edge.cli.options import Device

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer


def chat(
    model: Annotated[
        str | None, typer.Option(help="Bundle folder, or a name that `models` lists.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of drawings. Default: a random one each time.", min=0)
    ] = None,
    threads: Annotated[
        int, typer.Option(help="Threads of the backend; 0 lets it choose.", min=0)
    ] = 0,
    device: Device = "auto",
) -> None:
    """Talk with a model: ask, draw, show images, in one conversation. /help lists the commands.

    Lines from a file or a program are taken one by one; if one cannot be done, the exit code is 1.
    """
    from rich.console import Console

    from janus_edge.cli.chatting import Talk, handle
    from janus_edge.cli.inline_images import kind_of
    from janus_edge.runtime.everyday import load

    is_typed = sys.stdin.isatty() and sys.stdout.isatty()
    lines = _typed() if is_typed else _piped()
    loaded = load(model, device=device, num_threads=threads)
    console = Console(highlight=False, soft_wrap=not is_typed)  # programs read whole lines
    talk = Talk(loaded, console, kind_of(), seed=seed)
    if is_typed:
        console.print(f"{loaded.name} on {loaded.device}; /help lists the commands, Ctrl-D ends")
    for line in lines:
        handle(talk, line)
        if talk.is_over:
            break
    if talk.has_failed and not is_typed:
        raise typer.Exit(1)


def _piped() -> Iterator[str]:
    """Yield the lines of standard input, UTF-8 in any locale."""
    for line in sys.stdin.buffer:
        yield line.decode("utf-8", "replace")


def _typed() -> Iterator[str]:
    """Yield lines from an editor with history and completion."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory

    from janus_edge.runtime.notes import home_folder

    class Kept(FileHistory):
        def store_string(self, string: str) -> None:
            with suppress(OSError):  # a full or read-only folder ends no conversation
                super().store_string(string)

    home = home_folder()
    with suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
    editor: Any = PromptSession(history=Kept(str(home / "chat_history")), completer=_completer())
    while True:
        try:
            yield editor.prompt("> ")
        except KeyboardInterrupt:  # the line is dropped, as in a shell
            continue
        except EOFError:
            return


def _completer() -> Completer:
    """Return what completes commands, and the file after /image and /save."""
    from prompt_toolkit.completion import DummyCompleter, PathCompleter, WordCompleter

    from janus_edge.cli.chatting import COMMANDS

    commands, files = WordCompleter(list(COMMANDS), sentence=True), PathCompleter(expanduser=True)
    with_file = {"/image": files, "/save": files}

    class Lines(DummyCompleter):
        """Completes a line's first word, or what follows it."""

        def get_completions(self, document: Any, complete_event: Any) -> Any:
            word, space, rest = document.text_before_cursor.partition(" ")
            if not space:
                return commands.get_completions(document, complete_event)
            after = with_file.get(word, DummyCompleter())
            return after.get_completions(type(document)(rest), complete_event)

    return Lines()
