"""Write a bundle: every component is exported and checked, then the folder appears whole."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from janus_edge.export.bundle.autoencoder import check_wanted
from janus_edge.export.bundle.entries import graph_entry, write_table
from janus_edge.export.bundle.gpu_kernels import (
    check_compiles,
    check_kernels,
    gpu_targets,
    write_kernels,
)
from janus_edge.export.bundle.preview import DecodedSamples
from janus_edge.export.bundle.sizes import sizes_of
from janus_edge.export.graph.builder import save_graph
from janus_edge.export.graph.component import Component
from janus_edge.export.graph.components import graph_components, tables
from janus_edge.export.graph.parity import measure_parity
from janus_edge.export.graph.storage import store_halves
from janus_edge.export.quantization.presets import for_tensorrt, preset_of
from janus_edge.export.tensorrt.engines import MAX_LENGTH as DEVICE_LENGTH
from janus_edge.export.tensorrt.engines import TIMINGS, Known, Plan, write_engine
from janus_edge.export.tokenizer.compile import check_tokenizer, compile_tokenizer
from janus_edge.export.tokenizer.roles import addressed, complete
from janus_edge.model.weights import (
    Checkpoint,
    Model,
    family_of,
    load_checkpoint,
    loaded,
    to_half,
)
from janus_edge.runtime import limits
from janus_edge.runtime.arguments import in_range
from janus_edge.runtime.bundle import CHECKSUM, COMPILED, MANIFEST, file_sha256
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.manifest import FORMAT, parse_manifest
from janus_edge.runtime.place import check_place, replacing

TOKENIZER_BIN = "tokenizer.bin"
UPCAST_AT_USE = 2**27  # weights per component from which they stay fp16 in memory
Report = Callable[[str], None]


def export_folder(
    checkpoint: Path,
    folder: Path,
    *,
    vae: Path | None = None,
    roles: str | None = None,
    source: str | None = None,
    max_length: int | None = None,
    quantize: str = "fp32",
    block_size: int | None = None,
    kv_cache: str | None = None,
    prefill: str | None = None,
    lowering: str = "onnxruntime",
    image_encoder: bool = False,
    engines: Plan | None = None,
    kernels: Sequence[int] = (),
    report: Report,
    replace: bool = False,
) -> None:
    """Compile a checkpoint folder into a bundle folder; its weights are read a part at a time.

    ``vae`` is a JanusFlow's autoencoder, its folder or a file of its weights; None takes ``vae`` in
    the checkpoint. ``roles``, a name in TEMPLATES, says how prompts address the model; None takes
    what ``addressed`` finds. ``max_length`` None takes the model's. The rest is that of
    ``export_bundle``.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        OptionError: The model has an autoencoder of its own, or there are no such roles.
        Exception: What ``export_bundle`` raises.
    """
    check_place(folder, replace)
    found = load_checkpoint(checkpoint, lazy=True, vae=vae)
    check_wanted(found.model.config, vae, str(checkpoint))
    config = found.model.config.language
    most = config.max_position_embeddings if engines is None else DEVICE_LENGTH
    tokenizer = complete(found.tokenizer_json, config.vocab_size)
    template, why = addressed(found, tokenizer, roles)
    length = min(config.max_position_embeddings, most) if max_length is None else max_length
    check_length(found.model, length)
    report(f"roles: {template.user_role}, {template.assistant_role}: {why}")
    prompt = dataclasses.asdict(template)
    export_bundle(
        dataclasses.replace(found, tokenizer_json=tokenizer, prompt=prompt),
        folder,
        max_length=length,
        source=source,
        quantize=quantize,
        block_size=block_size,
        kv_cache=kv_cache,
        prefill=prefill,
        lowering=lowering,
        image_encoder=image_encoder,
        engines=engines,
        kernels=kernels,
        report=report,
        replace=replace,
    )


def export_bundle(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    max_length: int,
    source: str | None = None,
    quantize: str = "fp32",
    block_size: int | None = None,
    kv_cache: str | None = None,
    prefill: str | None = None,
    lowering: str = "onnxruntime",
    image_encoder: bool = False,
    engines: Plan | None = None,
    kernels: Sequence[int] = (),
    report: Report,
    replace: bool = False,
    upcast_at_use: int = UPCAST_AT_USE,
) -> None:
    """Compile a checkpoint into a bundle folder.

    Args:
        checkpoint: The model, its tokenizer and prompt roles.
        folder: Where the bundle is written.
        max_length: Positions of the KV cache.
        source: What the checkpoint is, for the manifest: ``owner/name@commit``; None if unknown.
        quantize: Name of a preset (docs/quantization.md).
        block_size: Weights per scale in the decoder; None takes the preset's.
        kv_cache: "float32" or "int8"; None takes the preset's.
        prefill: "int8" for a copy of the decoder that is faster for many positions.
        lowering: "onnxruntime", or "portable" for standard operators only.
        image_encoder: Whether Janus' image encoder (images to codes) is written, too.
        engines: For TensorRT engines and our GPU kernels in place of graphs.
        kernels: GPUs that our kernels are compiled for, beside the graphs: compute capabilities,
            times ten.
        report: Called with one line per component.
        replace: Whether a bundle that is there is replaced.
        upcast_at_use: Weights per component from which they stay fp16 in memory.

    Raises:
        ParityError: A component differs from PyTorch.
        OutputError: The folder exists (and replace is False) or cannot be written.
        OptionError: No room for an image in max_length, or an unknown preset.
    """
    preset = preset_of(
        quantize, block_size=block_size, cache=kv_cache, prefill=prefill, lowering=lowering
    )
    if engines is not None:
        beside = folder.with_name(f"{folder.name}{COMPILED}")
        engines = dataclasses.replace(engines, timings=engines.timings or beside / TIMINGS)
        language = checkpoint.model.config.language
        preset = for_tensorrt(preset, (language.hidden_size, language.intermediate_size))
    check_length(checkpoint.model, max_length)
    head_dim = checkpoint.model.config.language.head_dim
    if preset.lowering == "onnxruntime" and engines is None and head_dim % 8:
        raise OptionError(
            f"a head has {head_dim} channels, and ONNX Runtime's attention takes multiples of 8; "
            "export with --lowering portable"
        )
    check_place(folder, replace)
    if kernels:
        check_kernels(checkpoint, preset, kernels)
    if kernels or engines is not None:
        check_compiles()
    compiled = compile_tokenizer(checkpoint.tokenizer_json)
    check_tokenizer(checkpoint.tokenizer_json, compiled)
    with replacing(folder, replace) as part:
        stored = to_half(checkpoint) if preset.fp16 else checkpoint
        decoded = DecodedSamples(stored, report)
        components = graph_components(
            stored, max_length, preset, image_encoder=image_encoder, decoded=decoded
        )
        entries = _write_graphs(stored, components, part, report, upcast_at_use, engines)
        entries |= _write_tables(stored, part, decoded, report, preset.fp16)
        if engines is not None:
            kernels = gpu_targets(engines.target)
        made: list[dict[str, Any]] = []
        if kernels:
            made = write_kernels(checkpoint, part, kernels, report, decoder=engines is None)
        (part / "tokenizer.json").write_text(checkpoint.tokenizer_json, encoding="utf-8")
        (part / TOKENIZER_BIN).write_bytes(compiled)
        _write_manifest(checkpoint, part, folder.name, source, max_length, entries, made)


def _write_graphs(
    checkpoint: Checkpoint,
    components: list[Component],
    part: Path,
    report: Report,
    upcast_at_use: int,
    engines: Plan | None,
) -> dict[str, Any]:
    """Export and check each component; return the manifest's entries."""
    entries: dict[str, Any] = {}
    for component in components:
        path, data = part / f"{component.name}.onnx", None
        if component.is_listed or component.num_weights > upcast_at_use:
            data = part / f"{component.name}.data"
        with loaded(checkpoint, *component.parameters):
            proto = component.build(data)
            weights = store_halves(proto)
            save_graph(proto, path)
            beside = component.beside(data) if data is not None else {}
            entry = graph_entry(component, proto, path, data, weights, beside)
            del proto  # it is as large as the weights, which are still needed
            examples = component.examples()
            references = component.references(examples)
            fake_quantized = None
            if component.is_quantized:
                fake_quantized = component.references(examples, fake_quantize=True)
        parity = measure_parity(
            component, path, entry["upcast"], examples, references, fake_quantized
        )
        line = str(parity)
        if engines is not None:
            with loaded(checkpoint, *component.parameters):
                entry, line = write_engine(
                    component, path, entry, engines, Known(examples, references)
                )
        entries[component.name] = entry
        sizes = [(part / entry[key]["file"]).stat().st_size for key in ("data",) if key in entry]
        size = sum(sizes, (part / entry["file"]).stat().st_size)
        report(f"{component.name}: {size / 1e6:.2f} MB, {line}")
    return entries


def _write_tables(
    checkpoint: Checkpoint, part: Path, decoded: DecodedSamples, report: Report, fp16: bool
) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name, table in chain(tables(checkpoint), [("preview", decoded.preview)]):
        path = part / f"{name}.npy"
        entries[name] = write_table(table.astype(np.float16) if fp16 else table, path)
        report(f"{name}: {path.stat().st_size / 1e6:.2f} MB, table {table.shape}")
    return entries


def _write_manifest(
    checkpoint: Checkpoint,
    part: Path,
    name: str,
    source: str | None,
    max_length: int,
    entries: dict[str, Any],
    kernels: list[dict[str, Any]],
) -> None:
    """Write the manifest of a new bundle."""
    manifest = {
        "format": FORMAT,
        "family": family_of(checkpoint.model),
        "name": name,
        "created_by": f"janus-edge {version('janus-edge')}",
        **({} if source is None else {"source": source}),
        "sizes": sizes_of(checkpoint.model, max_length).model_dump(),
        "prompt": checkpoint.prompt,
        "sampling": checkpoint.sampling,
        **{
            key: {"file": name, "sha256": file_sha256(part / name)}
            for key, name in (("tokenizer", "tokenizer.json"), ("tokenizer_bin", TOKENIZER_BIN))
        },
        "components": entries,
        **({"kernels": kernels} if kernels else {}),
    }
    write_manifest(manifest, part)


def write_manifest(manifest: dict[str, Any], part: Path) -> None:
    """Write manifest.json and its checksum into a folder."""
    raw = (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()
    parse_manifest(raw, MANIFEST)  # never write a manifest that the runtime refuses
    (part / MANIFEST).write_bytes(raw)
    (part / CHECKSUM).write_text(file_sha256(part / MANIFEST) + "\n", encoding="utf-8")


def check_length(model: Model, max_length: int) -> None:
    """Raise OptionError if the KV cache has no room for an image and a short prompt."""
    in_range("max_length", max_length, 1, limits.MOST_SIZES["max_length"])
    drawn = sizes_of(model, max_length).num_drawn
    if max_length < drawn + 16:
        raise OptionError(f"max_length {max_length} has no room for an image's {drawn} positions")
