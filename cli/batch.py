"""``janus-edge batch``: many drawings and questions from a file, resumable."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from janus_edge.cli.options import Device, Json


def batch(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN.jsonl",
            help="JSON lines: {'prompt': …, 'seed': 7} or {'question': …, 'images': ['a.png']}.",
        ),
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder of images and results.jsonl.")
    ],
    model: Annotated[
        str | None, typer.Option(help="Bundle folder, or a name that `models` lists.")
    ] = None,
    threads: Annotated[
        int, typer.Option(help="Threads of the backend; 0 lets it choose.", min=0)
    ] = 0,
    device: Device = "auto",
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Work on a Ray cluster; local starts one on this machine (extra ray).",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(help="With --ray: how many workers.", min=1)] = 2,
    json: Json = False,
) -> None:
    """Draw and answer what a file asks for. The same command goes on where it was stopped."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from janus_edge.batch.items import read_items
    from janus_edge.batch.results import RESULTS, Results
    from janus_edge.batch.run import outcomes
    from janus_edge.cli.json_output import print_json
    from janus_edge.runtime.bundle import open_bundle
    from janus_edge.runtime.errors import OptionError
    from janus_edge.runtime.session import Session
    from janus_edge.runtime.stop import keeping

    items = read_items(source)
    session = Session(open_bundle(model), num_threads=threads, device=device)
    bundle = session.bundle
    about = {"model": bundle.manifest.name, "model_sha256": bundle.sha256}
    results = Results(folder, items, about)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        keeping(
            lambda: f"{results.done} of {len(items)} are in {folder}; the same command goes on"
        ),
        Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar,
    ):
        task = bar.add_task("", total=len(items), completed=results.done)
        left = items[results.done :]
        if ray is None:
            found = outcomes(session, left)
        else:
            from janus_edge.batch.ray_data import outcomes_on_ray

            found = outcomes_on_ray(left, ray, model, threads, workers)
        for item, outcome in zip(left, found, strict=True):
            results.add(item, outcome)
            bar.update(task, completed=results.done)
    where = str(folder / RESULTS)
    if json:
        print_json({"results": where, "items": len(items), "failed": results.failed})
    else:
        typer.echo(f"{where}: {len(items)} results")
    if results.failed:
        raise OptionError(f"{results.failed} of {len(items)} items failed; {where} says why")
