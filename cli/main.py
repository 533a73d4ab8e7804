"""Run a command; the one place where an error becomes a line and an exit code.

The module imports little: a Ctrl-C while the commands are imported must not print a traceback.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from contextlib import suppress

from janus_edge.runtime.stop import Stopped, end_displays, stoppable

_DEBUG = "--debug"  # accepted anywhere, so it is removed before parsing
# The extra of each command's imports.
_EXTRAS = {
    "batch": "ray",
    "chat": "chat",
    "convert": "export",
    "data": "train",
    "distill": "export",
    "eval": "evals",
    "export": "export",
    "pull": "pull",
    "push": "hub",
    "serve": "serve",
    "train": "train",
}
# Extras of modules that only some uses need.
_EXTRA_OF = {"triton": "export,kernels,tensorrt", "huggingface_hub": "hub"}


def main() -> None:
    """Run the command line and exit with ``run``'s code."""
    code = run(sys.argv[1:], is_last=True)
    if "RANK" in os.environ:  # torchrun's: a thread of Gloo that wants Python while it ends aborts
        _drop_output()
        os._exit(code)
    sys.exit(code)


def run(words: list[str], *, is_last: bool = False) -> int:
    """Run a command and return its exit code (docs/cli.md, "Exit codes").

    An error becomes one line on standard error; only ``--debug`` shows a traceback.

    Args:
        words: Words of the command line, without the program.
        is_last: Whether the program ends afterwards.
    """
    end = words.index("--") if "--" in words else len(words)
    arguments = [word for word in words[:end] if word != _DEBUG] + words[end:]
    debug = len(arguments) < len(words)
    arguments = arguments or ["--help"]
    warnings.showwarning = lambda message, *_, **__: _note(message)
    _prepare_streams()
    try:
        with stoppable(is_last=is_last):
            from janus_edge.cli.app import app

            code: int | None = app(arguments, prog_name="janus-edge", standalone_mode=False)
            if sys.stdout is not None:
                sys.stdout.flush()  # so that output that cannot be written is an error
        return code or 0
    except Stopped as stop:
        end_displays()
        _say(str(stop))
        return stop.code
    except BrokenPipeError:  # the reader, such as head, has stopped reading
        _drop_output()
        return 1
    except Exception as error:
        if debug:
            raise
        _drop_output()
        return _failed(*_line_and_code(error, arguments[0]))


def _prepare_streams() -> None:
    """Open closed standard streams, and accept any text in any locale.

    A file that is opened later must not get the number of a standard stream.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # it was closed before Python began
            nothing = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(nothing, mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Discard what standard output did not take: Python would try to write it again at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _note(message: Warning | str) -> None:
    """Print a warning that does not stop a command, for example what a device leaves to the CPU."""
    _say(f"note: {message}")


def _say(line: str) -> None:
    """Print a line on standard error, if there is one."""
    if sys.stderr is not None:  # else print would use standard output
        with suppress(OSError):
            print(" ".join(line.split()), file=sys.stderr, flush=True)


def _line_and_code(error: Exception, command: str) -> tuple[str, int]:
    """Return an error's line and the exit code."""
    from typer.exceptions import TyperException

    from janus_edge.runtime.errors import JanusEdgeError

    if isinstance(error, TyperException):
        message = error.format_message()
        return message.replace("Got unexpected", "does not take the"), error.exit_code
    if isinstance(error, JanusEdgeError) or type(error).__name__ in _OWN_ERRORS:
        return str(error), 1
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None:
            return f"standard output: {error.strerror}; send it somewhere else", 1
        return f"{error.filename}: {error.strerror}; check the path, its permissions, the disk", 1
    if isinstance(error, MemoryError):
        return (
            f"out of memory: {error or command}; ask for less at once, or close other programs",
            1,
        )
    missing = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing not in ("", "janus_edge") and command in _EXTRAS:
        extra = _EXTRA_OF.get(missing, _EXTRAS[command])
        return f"this command needs {missing}; run: pip install 'janus-edge[{extra}]'", 1
    kind, text = type(error).__name__, " ".join(str(error).split())
    return f"unexpected {kind}: {text}; run again with {_DEBUG} and report it", 1


# Errors of packages whose import is slow, by name.
_OWN_ERRORS = ("CheckpointError", "ParityError")


def _failed(message: str, code: int) -> int:
    """Print an error's line and return the exit code."""
    _say(f"error: {message}")
    return code
