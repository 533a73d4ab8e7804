"""``janus-edge batch``: many drawings and questions from a file, resumable."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from janus_edge.cli.options import Device, Json

if TYPE_CHECKING:
    from janus_edge.batch.items import Item
    from janus_edge.batch.results import Results
    from janus_edge.batch.run import Outcome
    from janus_edge.runtime.session import Session


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
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try items again that failed before.")
    ] = False,
    json: Json = False,
) -> None:
    """Draw and answer what a file asks for. The same command goes on where it was stopped."""
    from janus_edge.batch.items import read_items
    from janus_edge.batch.results import RESULTS, Results
    from janus_edge.cli.json_output import print_json
    from janus_edge.runtime.bundle import open_bundle
    from janus_edge.runtime.errors import OptionError
    from janus_edge.runtime.session import Session

    items = read_items(source)
    session = Session(open_bundle(model), num_threads=threads, device=device)
    name, sha256 = session.bundle.manifest.name, session.bundle.sha256
    make = _maker(session, ray, workers, {"model": model, "num_threads": threads, "device": device})
    results = Results(folder, items, {"model": name, "model_sha256": sha256})
    _fill(results, items, make, retry_failed)
    where = str(folder / RESULTS)
    if json:
        print_json({"results": where, "items": len(items), "failed": results.failed})
    else:
        typer.echo(f"{where}: {len(items)} {'result' if len(items) == 1 else 'results'}")
    if results.failed:
        raise OptionError(f"{results.failed} of {len(items)} items failed; {where} says why")


def _maker(
    session: Session, ray: str | None, workers: int, options: dict[str, Any]
) -> Callable[[list[Item]], Iterator[Outcome]]:
    """Return what works on items: this process, or a cluster's workers."""
    if ray is None:
        from janus_edge.batch.run import outcomes

        return lambda items: outcomes(session, items)
    import_module("ray")  # before a folder is made

    from janus_edge.batch.ray_data import WorkerOptions, outcomes_on_ray

    return lambda items: outcomes_on_ray(items, ray, workers, WorkerOptions(**options))


def _fill(
    results: Results,
    items: list[Item],
    make: Callable[[list[Item]], Iterator[Outcome]],
    retry_failed: bool,
) -> None:
    """Work on what is left, with a progress bar."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from janus_edge.runtime.stop import displayed, keeping

    def kept() -> str:
        done = f"{results.done} of {len(items)}"
        return f"{done} are in {results.folder}; the same command goes on"

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    shown = Progress(*columns, console=console, disable=not sys.stderr.isatty())
    with keeping(kept), displayed(shown) as bar:
        task = bar.add_task("", total=len(items), completed=results.done)
        results.redo(items, make, failed=retry_failed)
        results.fill(items, make, lambda done: bar.update(task, completed=done))
