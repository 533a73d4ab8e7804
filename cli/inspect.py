"""``janus-edge inspect``: what a bundle holds, after a check that it is complete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from janus_edge.cli.options import Json

if TYPE_CHECKING:
    from janus_edge.runtime.bundle import Bundle
    from janus_edge.runtime.manifest import Tensor


def inspect(
    bundle: Annotated[
        str | None, typer.Argument(help="Bundle folder, or a name that `models` lists.")
    ] = None,
    json: Json = False,
) -> None:
    """Check a bundle and show what it holds."""
    from janus_edge.cli.json_output import print_json
    from janus_edge.runtime.bundle import open_bundle

    opened = open_bundle(bundle, check_all=True)
    if json:
        print_json(_document(opened))
    else:
        _show(opened)


def _document(opened: Bundle) -> dict[str, Any]:
    """Return the manifest with the sizes, the folder and the hash that it does not hold."""
    sizes = {name: {"size_bytes": opened.num_bytes(name)} for name in opened.manifest.components}
    manifest = opened.manifest.model_dump(mode="json")
    manifest["components"] = {
        name: part | sizes[name] for name, part in manifest["components"].items()
    }
    return {"folder": opened.folder, "sha256": opened.sha256} | manifest


def _show(opened: Bundle) -> None:
    """Print a bundle's sizes, sampling settings and components."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    manifest, console = opened.manifest, Console(markup=False)
    console.print(f"{manifest.name}: {manifest.family}, {manifest.created_by}, all hashes right")
    console.print(f"  folder    {opened.folder}", soft_wrap=True)
    for title, values in (("sizes", manifest.sizes), ("sampling", manifest.sampling)):
        shown = ", ".join(f"{key} {value}" for key, value in values.model_dump().items())
        console.print(f"  {title:9} {shown}", highlight=False, soft_wrap=True)
    table = Table("component", "MB", "engine", "target", "weights", "inputs -> outputs", box=None)
    for name, part in manifest.components.items():
        size = f"{opened.num_bytes(name) / 1e6:.2f}"
        flow = f"{_shapes(part.inputs)} -> {_shapes(part.outputs)}"
        table.add_row(name, size, part.backend, part.target, part.weights, Text(flow))
    console.print(table)


def _shapes(tensors: tuple[Tensor, ...]) -> str:
    """Return tensors as ``hidden[R,256]``; all KV caches together as ``KV``."""
    shown = []
    for tensor in tensors:
        is_cache = tensor.name.startswith(("past_", "present_"))
        word = "KV" if is_cache else f"{tensor.name}[{','.join(map(str, tensor.shape))}]"
        if word not in shown:
            shown.append(word)
    return " ".join(shown)
