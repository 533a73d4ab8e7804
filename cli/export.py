"""``janus-edge export``: compile a checkpoint folder into a bundle folder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Backends(StrEnum):
    """The backends that a bundle can be exported for."""

    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"
    cuda = "cuda"


def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder with config.json and weights.")],
    bundle: Annotated[Path, typer.Argument(help="Folder to write.")],
    vae: Annotated[
        Path | None,
        typer.Option(
            help="A JanusFlow's autoencoder, its folder or a file of its weights; default: vae in "
            "the checkpoint."
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
    quantize: Annotated[
        str, typer.Option(help="How weights are stored: fp32, fp16, int8, int4 or int4-int8.")
    ] = "fp32",
    block_size: Annotated[
        int | None,
        typer.Option(
            help="Weights per scale in the decoder: 32, 64 or 128; default: the preset's."
        ),
    ] = None,
    kv_cache: Annotated[
        str | None,
        typer.Option(help="Type of keys and values: float32 or int8; default: the preset's."),
    ] = None,
    prefill: Annotated[
        str | None,
        typer.Option(
            help="int8: a second copy of the decoder, for prompts and images asked about."
        ),
    ] = None,
    lowering: Annotated[
        str | None,
        typer.Option(help="portable: standard ONNX operators alone; default: onnxruntime's."),
    ] = None,
    image_encoder: Annotated[
        bool,
        typer.Option(
            "--image-encoder", help="Also export a Janus' image encoder, images to codes."
        ),
    ] = False,
    backend: Annotated[
        Backends,
        typer.Option(
            help="onnxruntime: graphs; tensorrt: engines for NVIDIA's GPUs; cuda: graphs, and our "
            "kernels for NVIDIA's GPUs."
        ),
    ] = Backends.onnxruntime,
    precision: Annotated[
        str | None, typer.Option(help="TensorRT: float16 or bfloat16; default: float16.")
    ] = None,
    builder: Annotated[
        str | None,
        typer.Option(help="TensorRT: tensorrt_rtx or tensorrt; default: what is installed."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="TensorRT and cuda: a GPU, such as sm_89; default: all that one build can serve."
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a bundle there.")] = False,
) -> None:
    """Compile a checkpoint into a bundle.

    Checks every component against PyTorch.
    """
    from janus_edge.export.bundle.gpu_kernels import gpu_targets
    from janus_edge.export.bundle.writer import export_folder
    from janus_edge.export.tensorrt.engines import PRECISIONS, Plan
    from janus_edge.runtime.stop import keeping

    of_engines = {"precision": precision, "builder": builder}
    of_graphs = {"kv-cache": kv_cache, "prefill": prefill, "lowering": lowering}
    _check(backend, {**of_engines, "target": target}, of_graphs)
    with keeping(lambda: "no bundle was written"):
        export_folder(
            checkpoint,
            bundle,
            vae=vae,
            roles=roles,
            max_length=max_length,
            quantize=quantize,
            block_size=block_size,
            kv_cache=kv_cache,
            prefill=prefill,
            lowering=lowering or "onnxruntime",
            image_encoder=image_encoder,
            engines=Plan(precision=precision or PRECISIONS[0], target=target, builder=builder)
            if backend is Backends.tensorrt
            else None,
            kernels=gpu_targets(target) if backend is Backends.cuda else (),
            report=typer.echo,
            replace=replace,
        )
    typer.echo(bundle)


_TAKES = {  # options that a backend has and others do not
    Backends.onnxruntime: (),
    Backends.tensorrt: ("precision", "builder", "target"),
    Backends.cuda: ("target",),
}


def _check(
    backend: Backends, of_engines: dict[str, str | None], of_graphs: dict[str, str | None]
) -> None:
    """Raise typer.BadParameter for an option that the backend does not have."""
    for name, value in of_engines.items():
        if value is not None and name not in _TAKES[backend]:
            has = " or ".join(f"--backend {each}" for each, own in _TAKES.items() if name in own)
            what = "GPU kernels and engines" if name == "target" else "engines"
            raise typer.BadParameter(f"--{name} is of {what}; add {has}")
    if backend is Backends.tensorrt:
        for name, value in of_graphs.items():
            if value is not None:
                raise typer.BadParameter(f"leave out --{name}, which is of graphs, not of engines")
