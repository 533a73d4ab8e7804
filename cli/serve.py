"""``janus-edge serve``: an HTTP server with OpenAI's API, and a page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from janus_edge.cli.options import Device

TOKEN = "JANUS_EDGE_TOKEN"


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Bundle folder, or a name that `models` lists; several times for several. The "
            "first is the default. Default: all that `models` lists."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    queue: Annotated[
        int, typer.Option(help="Images and answers of a model that may wait.", min=1)
    ] = 64,
    timeout: Annotated[float, typer.Option(help="Longest time of a request, s.", min=1)] = 600,
    memory: Annotated[
        int | None,
        typer.Option(help="Room for open models, MB. Default: half of what is free.", min=1),
    ] = None,
    grace: Annotated[
        float, typer.Option(help="Time for running requests after SIGTERM, s.", min=0)
    ] = 30,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Origin of another page that may use the server.")
    ] = None,
    allow_images_from: Annotated[
        list[str] | None, typer.Option(help="Host that images of a chat may be fetched from.")
    ] = None,
    threads: Annotated[
        int, typer.Option(help="Threads of the backend; 0 lets it choose.", min=0)
    ] = 0,
    device: Device = "auto",
) -> None:
    """Serve images and answers over HTTP with OpenAI's API, and a page at /.

    Other machines reach it with --host 0.0.0.0 and a token in JANUS_EDGE_TOKEN.
    """
    import logging

    from janus_edge.runtime.arguments import in_range
    from janus_edge.runtime.resources import free_memory
    from janus_edge.serve.app import make_app
    from janus_edge.serve.counts import Counts
    from janus_edge.serve.models import Models
    from janus_edge.serve.server import run
    from janus_edge.serve.settings import Settings

    in_range("timeout", timeout, 1, 10**7)
    in_range("grace", grace, 0, 10**7)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = Settings(
        host=host,
        token=os.environ.get(TOKEN, ""),
        timeout_s=timeout,
        origins=tuple(allow_origin or ()),
        image_hosts=tuple(allow_images_from or ()),
    )
    counts = Counts()
    models = Models(
        _folders(model),
        memory_mb=memory or int(min(free_memory(), 10**12) / 2e6),
        most_waiting=queue,
        num_threads=threads,
        device=device,
        report=counts.ended,
    )
    run(
        make_app(models, settings, counts),
        host,
        port,
        grace,
        begin=lambda: models.worker(None),  # a damaged bundle ends the start
        end=lambda: models.stop(wait=False),
    )


def _folders(names: list[str] | None) -> dict[str, Path]:
    """Return the folders of the bundles that are served, by name."""
    from janus_edge.runtime.bundle import find_bundle, list_bundles
    from janus_edge.runtime.errors import OptionError

    if names:
        found = [find_bundle(name).absolute() for name in names]
        by_name = {folder.name: folder for folder in found}
        for folder in found:
            if by_name[folder.name] != folder:
                raise OptionError(
                    f"{folder} and {by_name[folder.name]} have one name; rename one of them"
                )
        return by_name
    default = find_bundle(None)
    listed = [each.folder for each in list_bundles() if each.family != "damaged"]
    return {folder.name: folder for folder in [default, *listed]}
