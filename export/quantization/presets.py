"""Presets: how the parts of a model are stored."""

from __future__ import annotations

from dataclasses import dataclass, replace

from janus_edge.export.quantization.quantize import BLOCK_SIZES, QuantSpec
from janus_edge.runtime.errors import OptionError

CACHE_TYPES = ("float32", "int8")
LOWERING_NAMES = ("onnxruntime", "portable")  # of export/graph/lowering.py


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How the parts of a model are stored. None stores them as in the checkpoint, fp16 if exact.

    Attributes:
        decoder: The decoder's layers.
        image_head: The head for codes.
        text_head: The head for tokens.
        vision_and_flow: The parts that see all rows of an image at once.
        convolutions: True if those of the VQ decoder are quantized (convolutions.py).
        prefill: A second copy of the decoder for prompts; None has no copy.
        cache: Dtype of keys and values; int8 has one scale per channel (calibrate.py).
        fp16: True if everything else, tables too, becomes fp16.
        lowering: A name of ``LOWERING_NAMES``.
    """

    decoder: QuantSpec | None = None
    image_head: QuantSpec | None = None
    text_head: QuantSpec | None = None
    vision_and_flow: QuantSpec | None = None
    convolutions: bool = False
    prefill: QuantSpec | None = None
    cache: str = "float32"
    fp16: bool = False
    lowering: str = "onnxruntime"


# docs/quantization.md has the measurements. Guidance multiplies an error of the image head by its
# scale, so heads keep 8 bits.
_HEAD = QuantSpec(bits=8, block_size=32)
_PER_CHANNEL = QuantSpec(bits=8)
_QUANTIZED = Preset(
    image_head=_HEAD,
    text_head=_HEAD,
    vision_and_flow=_PER_CHANNEL,
    convolutions=True,
    cache="int8",
    fp16=True,
)
_INT4 = replace(_QUANTIZED, decoder=QuantSpec(bits=4, block_size=128))
PRESETS = {
    "fp32": Preset(),
    "fp16": Preset(fp16=True),
    "int8": replace(_QUANTIZED, decoder=QuantSpec(bits=8, block_size=128)),
    "int4": _INT4,
    "int4-int8": replace(_INT4, prefill=_PER_CHANNEL),
}


def preset_of(
    name: str,
    *,
    block_size: int | None = None,
    cache: str | None = None,
    prefill: str | None = None,
    lowering: str = "onnxruntime",
) -> Preset:
    """Return a preset with changes.

    Args:
        name: A name in PRESETS.
        block_size: Block size of the decoder; None keeps the preset's.
        cache: Dtype of the KV cache; None keeps the preset's.
        prefill: "int8" adds a copy of the decoder for prefill.
        lowering: A name of ``LOWERING_NAMES``.

    Raises:
        OptionError: There is no such name or value, or they do not go together.
    """
    _check("quantize", name, tuple(PRESETS))
    _check("lowering", lowering, LOWERING_NAMES)
    preset = replace(PRESETS[name], lowering=lowering)
    if lowering == "portable":
        if cache == "int8":
            raise OptionError("standard operators have no 8-bit kv_cache; leave out one of the two")
        # TensorRT has no unsigned quantized values
        preset = replace(preset, cache="float32", convolutions=False)
    if cache is not None:
        _check("kv_cache", cache, CACHE_TYPES)
        preset = replace(preset, cache=cache)
    if prefill is not None:
        _check("prefill", prefill, ("int8",))
        preset = replace(preset, prefill=_PER_CHANNEL)
    if block_size is None:
        return preset
    if preset.decoder is None:
        raise OptionError(f"block_size means nothing to {name}, which has no blocks; leave it out")
    _check("block_size", block_size, BLOCK_SIZES)
    return replace(preset, decoder=replace(preset.decoder, block_size=block_size))


def for_tensorrt(preset: Preset, sizes: tuple[int, ...]) -> Preset:
    """Return what TensorRT takes of a preset.

    The decoder and the heads keep their blocks, with positive scales and of a size that divides
    their inputs. Everything else is fp16, keys and values too.

    Args:
        preset: The preset.
        sizes: The matmuls' numbers of inputs.
    """

    def fitted(spec: QuantSpec | None) -> QuantSpec | None:
        if spec is None or spec.block_size is None:
            return None
        most = spec.block_size
        fitting = [b for b in BLOCK_SIZES if b <= most and not any(s % b for s in sizes)]
        return replace(spec, block_size=fitting[-1], positive_scales=True) if fitting else None

    return Preset(
        decoder=fitted(preset.decoder),
        image_head=fitted(preset.image_head),
        text_head=fitted(preset.text_head),
        fp16=True,
        lowering="portable",
    )


def _check(option: str, value: str | int, known: tuple[str | int, ...]) -> None:
    if value not in known:
        shown = f'"{value}"' if isinstance(value, str) else value
        raise OptionError(f"{option} is {shown}; give one of {', '.join(map(str, known))}")
