"""``janus-edge doctor``: what this machine has, and where a bundle can run on it."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    model: Annotated[
        str | None, typer.Argument(help="Bundle folder, or a name that `models` lists.")
    ] = None,
) -> None:
    """Show what there is to run on, and for each device whether a bundle can."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from janus_edge.bench.doctor import bundle, machine
    from janus_edge.runtime.bundle import open_bundle
    from janus_edge.runtime.devices import choose
    from janus_edge.runtime.errors import DeviceError

    manifest, console = open_bundle(model).manifest, Console(highlight=False)
    table = Table("machine", "", box=None)
    for name, found in machine():
        table.add_row(name, Text(found))
    console.print(table)
    table = Table("--device", manifest.name, box=None)
    for name, found in bundle(manifest):
        table.add_row(name, Text(found))
    try:
        chosen = str(choose(manifest, "auto"))
    except DeviceError as error:
        chosen = str(error)
    table.add_row("auto", Text(chosen))
    console.print()
    console.print(table)
