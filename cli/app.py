"""The typer app: every command and its name."""

from __future__ import annotations

from typing import Annotated

import typer

from janus_edge.cli.ask import ask
from janus_edge.cli.batch import batch
from janus_edge.cli.bench import bench
from janus_edge.cli.chat import chat
from janus_edge.cli.convert import convert
from janus_edge.cli.data import data
from janus_edge.cli.distill import distill
from janus_edge.cli.doctor import doctor
from janus_edge.cli.evaluate import evaluate
from janus_edge.cli.export import export
from janus_edge.cli.generate import generate
from janus_edge.cli.inspect import inspect
from janus_edge.cli.models import models
from janus_edge.cli.pull import pull
from janus_edge.cli.push import push
from janus_edge.cli.serve import serve
from janus_edge.cli.train import train

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich help takes three times as long to answer
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate")(generate)
app.command("ask")(ask)
app.command("chat")(chat)
app.command("batch")(batch)
app.command("serve")(serve)
app.command("inspect")(inspect)
app.command("export")(export)
app.command("convert")(convert)
app.command("pull")(pull)
app.command("push")(push)
app.command("distill")(distill)
app.command("train")(train)
app.command("bench")(bench)
app.command("doctor")(doctor)
app.add_typer(models, name="models")
app.command("eval")(evaluate)
app.add_typer(data, name="data")


def _version(wanted: bool) -> None:
    """Print the version and exit, if asked for."""
    if wanted:
        from janus_edge import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def top(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Draw images and ask about them with the Janus family, compiled."""
