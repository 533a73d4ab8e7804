"""``janus-edge inspect``: what a bundle holds, after checking that it is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from janus_edge.runtime.manifest import Tensor


def inspect(
    bundle: Annotated[
        str | None, typer.Argument(help="Bundle folder, or a name that `models` lists.")
    ] = None,
) -> None:
    """Check a bundle and show what is in it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from janus_edge.runtime.bundle import open_bundle

    opened = open_bundle(bundle, check_all=True)
    manifest, console = opened.manifest, Console()
    console.print(f"{manifest.name}: {manifest.family}, {manifest.created_by}, all hashes right")
    console.print(f"  folder    {opened.folder}", soft_wrap=True)
    for title, values in (("sizes", manifest.sizes), ("sampling", manifest.sampling)):
        shown = ", ".join(f"{key} {value}" for key, value in values.model_dump().items())
        console.print(f"  {title:9} {shown}", highlight=False, soft_wrap=True)
    table = Table("component", "MB", "engine", "target", "weights", "inputs -> outputs", box=None)
    for name, part in manifest.components.items():
        size = f"{opened.path(name).stat().st_size / 1e6:.2f}"
        flow = f"{_shapes(part.inputs)} -> {_shapes(part.outputs)}"
        table.add_row(name, size, part.backend, part.target, part.weights, Text(flow))
    console.print(table)


def _shapes(tensors: tuple[Tensor, ...]) -> str:
    """``hidden[R,256]``; the KV caches, two a layer, as one word."""
    shown = []
    for tensor in tensors:
        is_cache = tensor.name.startswith(("past_", "present_"))
        word = "KV" if is_cache else f"{tensor.name}[{','.join(map(str, tensor.shape))}]"
        if word not in shown:
            shown.append(word)
    return " ".join(shown)
