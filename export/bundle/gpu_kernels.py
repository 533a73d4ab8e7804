"""The GPU kernels of a bundle: which it needs, compiled for each GPU (docs/kernels.md)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from janus_edge.export.bundle.sizes import sizes_of
from janus_edge.export.quantization.presets import Preset
from janus_edge.export.quantization.quantize import QuantSpec
from janus_edge.model.janus import Janus
from janus_edge.model.weights import Checkpoint, Model
from janus_edge.runtime.errors import OptionError

if TYPE_CHECKING:
    from janus_edge.kernels.spec import Spec

_HEADS = (32, 64, 128, 256)  # numbers of a head
_GROUP = 256  # inputs: two parts of 128, which a product with 4-bit weights takes at once


def gpu_targets(target: str | None) -> tuple[int, ...]:
    """Return the compute capabilities, times ten, that a target means; None means all.

    Raises:
        OptionError: It is no name of a GPU.
    """
    from janus_edge.kernels.compile import TARGETS  # needs Triton

    if target is None:
        return TARGETS
    if not re.fullmatch(r"sm_[0-9]{2,3}", target):
        raise OptionError(f'target is "{target}"; give a GPU such as sm_89')
    return (int(target.removeprefix("sm_")),)


def check_compiles() -> None:
    """Raise OptionError where Triton interprets kernels, so that none compiles."""
    from triton import JITFunction

    from janus_edge.kernels.sample import sample_kernel

    if not isinstance(sample_kernel, JITFunction):
        raise OptionError("TRITON_INTERPRET is set, and no kernel compiles under it; unset it")


def check_kernels(checkpoint: Checkpoint, preset: Preset, targets: Sequence[int]) -> None:
    """Raise OptionError if our kernels cannot run a model's decoder on these GPUs."""
    from janus_edge.kernels.compile import TARGETS

    if unknown := [f"sm_{each}" for each in targets if each not in TARGETS]:
        known = ", ".join(f"sm_{each}" for each in TARGETS)
        raise OptionError(f"--backend cuda has no kernels for {unknown[0]}; give one of {known}")
    stored = preset.decoder, preset.cache, preset.lowering
    if stored != (QuantSpec(bits=4, block_size=128), "int8", "onnxruntime"):
        raise OptionError(
            "--backend cuda takes the weights as --quantize int4 stores them; add that, and leave "
            "out --block-size, --kv-cache and --lowering"
        )
    model, config = checkpoint.model, checkpoint.model.config.language
    heads, inner = config.num_attention_heads * config.head_dim, config.intermediate_size
    width = config.hidden_size
    made = model.config.gen_head.image_token_embed if isinstance(model, Janus) else 0
    fits = {
        f"a width of {width} is no multiple of {_GROUP}": width % _GROUP == 0,
        f"its heads have {heads} numbers together, not {width}": heads == width,
        f"a head of {config.head_dim} is none of {_HEADS}": config.head_dim in _HEADS,
        f"an MLP of {inner} is narrower than a quarter of the width": 4 * inner >= width,
        f"an image head of {made} is no multiple of 64": made % 64 == 0,
    }
    if reason := next((why for why, is_so in fits.items() if not is_so), None):
        raise OptionError(f"--backend cuda does not fit this model: {reason}; leave it out")


def kernels_of(model: Model, *, decoder: bool) -> list[Spec]:
    """Return the kernels that draw with a model.

    Args:
        model: The model.
        decoder: Whether our kernels compute the decoder and its heads, or TensorRT's engines do.
    """
    from janus_edge.kernels.decoder_specs import code_specs, decoder_specs
    from janus_edge.kernels.spec import Shape
    from janus_edge.kernels.specs import specs_of

    specs = specs_of(sizes_of(model, 1))
    if not decoder:
        return specs
    config = model.config.language
    shape = Shape(
        width=config.hidden_size,
        inner=config.intermediate_size,
        heads=config.num_attention_heads,
        shared=config.num_attention_heads // config.num_key_value_heads,
        head_dim=config.head_dim,
    )
    if not isinstance(model, Janus):  # its loop runs on the host
        return list(decoder_specs(shape))
    codes, hidden = model.config.codebook.size, model.config.gen_head.image_token_embed
    shape = dataclasses.replace(shape, num_codes=codes, head_hidden=hidden)
    return [*specs, *decoder_specs(shape), *code_specs(shape)]


def write_kernels(
    checkpoint: Checkpoint,
    part: Path,
    targets: Sequence[int],
    report: Callable[[str], None],
    *,
    decoder: bool,
) -> list[dict[str, Any]]:
    """Compile a model's kernels for GPUs, and return their entries in the manifest.

    Args:
        checkpoint: The model.
        part: The bundle's folder.
        targets: Compute capabilities, times ten.
        report: Called with one line.
        decoder: See ``kernels_of``.
    """
    from janus_edge.kernels.compile import compile_kernel

    specs = kernels_of(checkpoint.model, decoder=decoder)
    entries = [compile_kernel(spec, target, part) for spec in specs for target in targets]
    report(f"kernels: {', '.join(spec.name for spec in specs)}, each for {len(targets)} GPUs")
    return entries
