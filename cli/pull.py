"""``janus-edge pull``: a published checkpoint to a bundle in the user's folder."""

from __future__ import annotations

from typing import Annotated

import typer


def pull(
    repo: Annotated[str, typer.Argument(help="Repository on the Hugging Face hub: owner/name.")],
    vae: Annotated[
        str | None,
        typer.Option(
            help="A JanusFlow's autoencoder, owner/name, a folder or a file; default: in the "
            "checkpoint, else stabilityai/sdxl-vae."
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit; default: the newest.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the bundle; default: the repository's, in lower case."),
    ] = None,
    quantize: Annotated[
        str | None,
        typer.Option(
            help="How weights are stored: fp32, fp16, int8, int4 or int4-int8; default: what this "
            "machine runs fastest."
        ),
    ] = None,
    roles: Annotated[
        str | None,
        typer.Option(help="Chat template: janus or janus-pro; default: the checkpoint's."),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(help="Positions of the KV cache; default: the most that the model allows."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the bundle.")] = False,
) -> None:
    """Pull a model from the Hugging Face hub.

    Downloads a checkpoint and compiles it, or a ready bundle, which needs no PyTorch; --model finds
    it by its name. Reads HF_TOKEN, HF_ENDPOINT and HF_HOME. A stopped download resumes where it
    stopped. What was downloaded stays in huggingface_hub's cache, the bundle in JANUS_EDGE_HOME.
    """
    from janus_edge.hub.pull import pull as pull_repository
    from janus_edge.runtime.stop import keeping

    with keeping(lambda: "what was downloaded is kept: run it again to go on"):
        folder = pull_repository(
            repo,
            vae=vae,
            revision=revision,
            name=name,
            roles=roles,
            quantize=quantize,
            max_length=max_length,
            report=typer.echo,
            note=lambda line: typer.echo(line, err=True),
            replace=replace,
        )
    typer.echo(f'draw with it: janus-edge generate "a red bicycle" --model {folder.name}')
    typer.echo(folder)
