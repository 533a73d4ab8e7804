"""``janus-edge doctor``: what this machine has, and where a bundle can run on it."""

from __future__ import annotations

from typing import Annotated

import typer

from janus_edge.cli.options import Json


def doctor(
    model: Annotated[
        str | None,
        typer.Argument(help="Bundle folder, or a name that `models` lists.", metavar="[BUNDLE]"),
    ] = None,
    json: Json = False,
) -> None:
    """Show where a bundle can run on this machine.

    Lists what the machine has, and for each device whether the bundle can run there.
    """
    from janus_edge.cli.json_output import print_json
    from janus_edge.diagnostics.doctor import bundle, machine
    from janus_edge.runtime.bundle import open_bundle
    from janus_edge.runtime.devices import choose
    from janus_edge.runtime.errors import DeviceError

    manifest = open_bundle(model).manifest
    found, devices = list(machine()), list(bundle(manifest))
    try:
        chosen = str(choose(manifest, "auto"))
    except DeviceError as error:
        chosen = str(error)
    if json:
        here = {"machine": dict(found), "bundle": manifest.name}
        print_json(here | {"devices": dict(devices), "auto": chosen})
    else:
        _show(("machine", ""), found)
        typer.echo()
        _show(("--device", manifest.name), [*devices, ("auto", chosen)])


def _show(titles: tuple[str, str], rows: list[tuple[str, str]]) -> None:
    """Print rows of names and findings as a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*titles, box=None)
    for name, found in rows:
        table.add_row(name, Text(found))
    Console(highlight=False, markup=False).print(table)
