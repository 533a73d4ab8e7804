"""The typer app and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer
from typer.exceptions import TyperException

from janus_edge.cli.ask import ask
from janus_edge.cli.bench import bench
from janus_edge.cli.doctor import doctor
from janus_edge.cli.evaluate import evaluate
from janus_edge.cli.export import export
from janus_edge.cli.generate import generate
from janus_edge.cli.inspect import inspect
from janus_edge.cli.models import models
from janus_edge.cli.pull import pull

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich help takes three times as long to answer
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate")(generate)
app.command("ask")(ask)
app.command("inspect")(inspect)
app.command("export")(export)
app.command("pull")(pull)
app.command("bench")(bench)
app.command("doctor")(doctor)
app.add_typer(models, name="models")
app.add_typer(evaluate, name="eval")

_DEBUG = "--debug"  # accepted anywhere, so it is taken out before parsing
_EXTRAS = {"eval": "evals", "export": "export", "pull": "pull"}  # what a command's imports need
_EXTRA_OF = {"triton": "export,kernels,tensorrt"}  # of a module that only some of it needs


def _version(wanted: bool) -> None:
    if wanted:
        from janus_edge import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def top(
    debug: Annotated[bool, typer.Option(_DEBUG, help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Draw pictures and ask about them with the Janus family, compiled."""


def main() -> None:
    """Run the command line; exit 0, 1 for an error, 2 for wrong usage, 130 when stopped."""
    arguments = [word for word in sys.argv[1:] if word != _DEBUG]
    debug = len(arguments) < len(sys.argv) - 1
    arguments = arguments or ["--help"]
    warnings.showwarning = lambda message, *_, **__: _note(message)
    try:
        sys.exit(app(arguments, standalone_mode=False))
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except typer.Abort:
        _fail("stopped", 130)
    except Exception as error:
        if debug:
            raise
        _fail(*_line_and_code(error, arguments[0]))


def _note(message: Warning | str) -> None:
    """What does not stop a command, as what a device leaves to the CPU."""
    print(f"note: {' '.join(str(message).split())}", file=sys.stderr)


def _line_and_code(error: Exception, command: str) -> tuple[str, int]:
    from janus_edge.runtime.errors import JanusEdgeError

    if isinstance(error, TyperException):
        return error.format_message(), error.exit_code
    if isinstance(error, JanusEdgeError) or type(error).__name__ in _OWN_ERRORS:
        return str(error), 1
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


# Errors of rooms whose import is heavy, by name.
_OWN_ERRORS = ("CheckpointError", "ParityError")


def _fail(message: str, code: int) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
