"""``janus-edge ask``: stream the answer to a question about images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from janus_edge.cli.options import Device, Json, Parallel, user_path


def ask(
    image: Annotated[
        Path,
        typer.Argument(help="Image file; - is standard input.", metavar="IMAGE", parser=user_path),
    ],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    more: Annotated[
        list[Path] | None,
        typer.Option(
            "--and",
            help="One more image, shown after the first.",
            metavar="IMAGE",
            parser=user_path,
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Keep this much probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the noise, if temperature is not 0.")] = 0,
    parallel: Parallel = "auto",  # type: ignore[assignment]
    model: Annotated[
        str | None, typer.Option(help="Bundle folder, or a name that `models` lists.")
    ] = None,
    threads: Annotated[
        int, typer.Option(help="Threads of the backend; 0 lets it choose.", min=0)
    ] = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Ask a question about an image."""
    from janus_edge.cli.json_output import print_json
    from janus_edge.cli.standard_input import as_text, images_from
    from janus_edge.cli.terminal import without_controls
    from janus_edge.runtime.bundle import open_bundle
    from janus_edge.runtime.events import Finished, Text
    from janus_edge.runtime.requests import AskRequest
    from janus_edge.runtime.session import Session
    from janus_edge.runtime.stop import keeping

    request = AskRequest(
        question=as_text(question),
        images=tuple(images_from([image, *(more or ())])),
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        parallel=parallel or None,
    )
    session = Session(open_bundle(model), num_threads=threads, device=device)
    said, is_shown = "", sys.stdout.isatty()
    timings: dict[str, float] = {}
    with keeping(lambda: _end_line(said)):
        for event in session.ask(request):
            match event:
                case Text(text=text):
                    said += text
                    if not json:
                        print(without_controls(text) if is_shown else text, end="", flush=True)
                case Finished(timings_ms=timings):
                    pass
    if json:
        bundle = {"bundle": session.bundle.manifest.name, "bundle_sha256": session.bundle.sha256}
        asked = {
            "question": request.question,
            "images": [image, *(more or ())],
            "answer": said.strip(),
        }
        print_json(bundle | asked | {"timings_ms": timings})
    else:
        print()


def _end_line(said: str) -> str:
    """End the line of an answer that was interrupted; return what to say about it."""
    if said:
        print(flush=True)
    return "the answer is not finished"
