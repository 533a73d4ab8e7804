"""``janus-edge models``: the bundles that have a name."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from janus_edge.cli.options import Json

models = typer.Typer(
    invoke_without_command=True, rich_markup_mode=None, help="List or remove bundles."
)


@models.callback()
def models_or_list(context: typer.Context, json: Json = False) -> None:
    """List the bundles that --model finds by their name, or remove one."""
    if context.invoked_subcommand is None:
        list_models(json)
    elif json:
        raise typer.BadParameter("--json belongs behind the command: models list --json")


@models.command("list")
def list_models(json: Json = False) -> None:
    """List the bundles that --model finds by their name."""
    from janus_edge.cli.json_output import print_json
    from janus_edge.runtime.bundle import list_bundles

    bundles = list_bundles()
    if json:
        print_json({"bundles": [dataclasses.asdict(bundle) for bundle in bundles]})
        return
    width = max((len(bundle.name) for bundle in bundles), default=0)
    for bundle in bundles:
        where = "shipped" if bundle.is_shipped else "pulled"
        size = f"{bundle.size_bytes / 1e6:.1f} MB"
        typer.echo(f"{bundle.name:{width}}  {where:7}  {size:>11}  {bundle.family}")


@models.command("remove")
def remove(name: Annotated[str, typer.Argument(help="Name of a pulled bundle.")]) -> None:
    """Delete a pulled bundle, without asking."""
    from janus_edge.runtime.removal import remove_bundle

    remove_bundle(name)
    typer.echo(f"removed {name}")
