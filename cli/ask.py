"""``janus-edge ask``: a picture and a question to a streamed answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from janus_edge.cli.options import Device


def ask(
    image: Annotated[Path, typer.Argument(help="Picture file.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    more: Annotated[
        list[Path] | None, typer.Option("--and", help="One more picture, shown after the first.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Keep this much probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the noise, when temperature is not 0.")] = 0,
    model: Annotated[
        str | None, typer.Option(help="Bundle folder, or a name that `models` lists.")
    ] = None,
    threads: Annotated[int, typer.Option(help="0 lets the engine choose.", min=0)] = 0,
    device: Device = "auto",
) -> None:
    """Ask a question about a picture."""
    from janus_edge.runtime.bundle import open_bundle
    from janus_edge.runtime.events import Text
    from janus_edge.runtime.image import load_image
    from janus_edge.runtime.requests import AskRequest
    from janus_edge.runtime.session import Session

    request = AskRequest(
        question=question,
        images=tuple(load_image(path) for path in (image, *(more or ()))),
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )
    for event in Session(open_bundle(model), num_threads=threads, device=device).ask(request):
        if isinstance(event, Text):
            print(event.text, end="", flush=True)
    print()
