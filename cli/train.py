"""``janus-edge train``: train or fine-tune a model by a recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or a TOML file.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the run; one there goes on.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Dataset folder, or a TOML file that names its parts.")
    ] = None,
    start: Annotated[Path | None, typer.Option(help="Checkpoint to train on.")] = None,
    language: Annotated[
        Path | None, typer.Option(help="Folder of a Llama-type language model to start from.")
    ] = None,
    vision: Annotated[Path | None, typer.Option(help="Folder of a SigLIP to start from.")] = None,
    codec: Annotated[
        Path | None,
        typer.Option(help="Checkpoint whose VQ tokenizer or autoencoder encodes the images."),
    ] = None,
    vae: Annotated[
        Path | None, typer.Option(help="Autoencoder of --start's JanusFlow; default: vae in it.")
    ] = None,
    lora: Annotated[int, typer.Option(min=0, max=1024, help="Rank of LoRA; 0 trains all.")] = 0,
    rows: Annotated[
        int, typer.Option(min=1, max=4096, help="Packed rows that a device computes at once.")
    ] = 1,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Less memory, a third more work.")
    ] = False,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the layers (needs a C++ compiler).")
    ] = False,
    fp32: Annotated[bool, typer.Option("--fp32", help="Compute in fp32, not in bf16.")] = False,
    save_every: Annotated[
        float, typer.Option(min=0, max=1e6, help="Seconds between saved states.")
    ] = 300,
    log_every: Annotated[
        int, typer.Option(min=1, max=10**6, help="Steps between lines of the log.")
    ] = 10,
    samples_every: Annotated[
        int, typer.Option(min=0, max=10**9, help="Steps between samples drawn; 0 for none.")
    ] = 1000,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the recipe; print sizes and memory; stop.")
    ] = False,
) -> None:
    """Train or fine-tune a model by a recipe. If it is stopped, the same command goes on.

    Several processes: torchrun --nproc-per-node N -m -- janus_edge train RECIPE ...
    """
    from janus_edge.runtime.errors import OptionError
    from janus_edge.runtime.stop import keeping
    from janus_edge.train.recipe import load_recipe

    chosen = load_recipe(recipe)
    if dry_run:
        from janus_edge.train.dry_run import lines_of

        for line in lines_of(chosen, lora):
            typer.echo(line)
        return
    if data is None or output is None:
        missing = "--data DATASET" if data is None else "-o RUN"
        raise OptionError(f"train needs {missing}; or give --dry-run to check the recipe alone")
    from janus_edge.train.engine import Settings
    from janus_edge.train.run import How, train_recipe
    from janus_edge.train.start import Sources

    settings = Settings(
        rows_at_once=rows,
        bf16=not fp32,
        save_every_s=save_every,
        log_every=log_every,
        samples_every=samples_every,
    )
    how = How(settings=settings, lora=lora, checkpointing=checkpointing, compiled=compile_)
    sources = Sources(checkpoint=start, language=language, vision=vision, codec=codec, vae=vae)
    leads = os.environ.get("RANK", "0") == "0"
    with keeping(lambda: f"what was saved stays in {output}; the same command goes on there"):
        folder = train_recipe(
            chosen, data, output, sources, how, typer.echo if leads else lambda line: None
        )
    if leads:
        typer.echo(folder)
