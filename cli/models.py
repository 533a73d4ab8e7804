"""``janus-edge models``: the bundles that have a name."""

from __future__ import annotations

from typing import Annotated

import typer

models = typer.Typer(
    invoke_without_command=True, rich_markup_mode=None, help="List or remove bundles."
)


@models.callback()
def list_models(context: typer.Context) -> None:
    """List the bundles that --model finds by their name, or remove one."""
    if context.invoked_subcommand is not None:
        return
    from janus_edge.runtime.bundle import list_bundles

    bundles = list_bundles()
    width = max(len(bundle.name) for bundle in bundles)
    for bundle in bundles:
        where = "shipped" if bundle.is_shipped else "pulled"
        size = f"{bundle.size_bytes / 1e6:.1f} MB"
        typer.echo(f"{bundle.name:{width}}  {where:7}  {size:>11}  {bundle.family}")


@models.command("remove")
def remove(name: Annotated[str, typer.Argument(help="Name of a pulled bundle.")]) -> None:
    """Delete a pulled bundle, without asking."""
    from janus_edge.runtime.bundle import remove_bundle

    remove_bundle(name)
    typer.echo(f"removed {name}")
