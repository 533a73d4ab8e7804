"""Quantize weights to few bits: symmetric, in blocks along the input, with one scale per block.

Only the weights of matmuls are quantized. A preset says how, for each part of a model.

Shapes: O outputs, I inputs, K blocks per output, S weights per block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from janus_edge.runtime.errors import OptionError

BLOCK_SIZES = (32, 64, 128)
_AT_ONCE = 2**18  # weights; the intermediate results then stay in the processor's cache
_LEAST_SCALE = np.float32(2.0**-18)  # fp16 holds it, even times the smallest of _SHRINKS
# Factors tried on the scale that the largest weight needs. Clipping a little costs the largest
# weights less than the finer steps save the others.
_SHRINKS = {4: np.linspace(1.0, 0.7, 7), 8: np.ones(1)}


@dataclass(frozen=True, kw_only=True)
class QuantSpec:
    """How weights are quantized.

    Matmuls also quantize their inputs to 8 bits, with as many inputs per scale (``accuracy_level``
    4 of ONNX Runtime's MatMulNBits). Per channel it is MatMulIntegerToFloat, which reads more but
    computes faster: for parts that see many rows at once.

    Attributes:
        bits: 4 or 8.
        block_size: Inputs that share a scale, 32, 64 or 128; None has one scale per output (per
            channel).
        positive_scales: If False, a block's largest weight maps to -2 ** (bits - 1), whatever its
            sign.
    """

    bits: int
    block_size: int | None = None
    positive_scales: bool = False

    @property
    def dtype(self) -> str:
        """The dtype's name in the manifest."""
        return f"int{self.bits}"

    @property
    def granularity(self) -> str:
        """What shares a scale, as the manifest says it."""
        return f"blocks of {self.block_size}" if self.block_size else "per-channel"


CACHE_TYPES = ("float32", "int8")
LOWERING_NAMES = ("onnxruntime", "portable")  # see export/graph/lowering.py


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How the parts of a model are stored. None stores them as in the checkpoint, fp16 if exact.

    Attributes:
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
    """Return a preset, with changes where they are given.

    They are the decoder's block size, the dtype of the KV cache, a copy of the decoder for prefill
    ("int8"), and the lowering.

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
    """Return what TensorRT takes of a preset; ``sizes`` are the numbers of inputs of its matmuls.

    The decoder and the heads keep their blocks, with positive scales and of a size that divides
    their inputs. Everything else is fp16, keys and values too.
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


def pack(weight_OI: np.ndarray, spec: QuantSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return quantized values (O, K, S * bits / 8) uint8 and scales (O, K) float32.

    The lower nibble comes first. The last block of an output is filled with zeros. Several scales
    are tried for a block; the one with the smallest squared error is taken. Unless scales must be
    positive, a scale's sign lets the largest weight take the one value that has no positive
    counterpart.
    """
    rows = max(1, _AT_ONCE // weight_OI.shape[1])
    parts = [_pack(weight_OI[i : i + rows], spec) for i in range(0, len(weight_OI), rows)]
    levels, scales = zip(*parts, strict=True)
    return np.concatenate(levels), np.concatenate(scales)


def _pack(weight_OI: np.ndarray, spec: QuantSpec) -> tuple[np.ndarray, np.ndarray]:
    """Quantize some outputs; see ``pack``."""
    half = 2 ** (spec.bits - 1)
    size = spec.block_size or weight_OI.shape[1]
    filled = np.pad(weight_OI.astype(np.float32), ((0, 0), (0, -weight_OI.shape[1] % size)))
    parts_OKS = filled.reshape(len(filled), -1, size)
    if spec.positive_scales:
        least, most = parts_OKS.min(-1, keepdims=True), parts_OKS.max(-1, keepdims=True)
        full_OK1 = np.maximum(most / np.float32(half - 1), least / np.float32(-half))
        full_OK1 = np.maximum(full_OK1, _LEAST_SCALE)  # also for a block of zeros
    else:
        at = np.abs(parts_OKS).argmax(-1)[..., None]
        full_OK1 = np.take_along_axis(parts_OKS, at, axis=-1) / np.float32(-half)
    best_OK1, least_OK1 = full_OK1, np.full(full_OK1.shape, np.inf, np.float32)
    for shrink in _SHRINKS[spec.bits]:
        scale_OK1 = full_OK1 * np.float32(shrink)
        levels_OKS = _levels(parts_OKS, scale_OK1, half)
        levels_OKS *= scale_OK1
        levels_OKS -= parts_OKS
        error_OK1 = np.einsum("oks,oks->ok", levels_OKS, levels_OKS)[..., None]
        best_OK1 = np.where(error_OK1 < least_OK1, scale_OK1, best_OK1)
        least_OK1 = np.minimum(error_OK1, least_OK1)
    unsigned = (_levels(parts_OKS, best_OK1, half) + half).astype(np.uint8)
    if spec.bits == 4:
        unsigned = unsigned[..., 0::2] | unsigned[..., 1::2] << 4
    return unsigned, best_OK1[..., 0]


def _levels(parts_OKS: np.ndarray, scale_OK1: np.ndarray, half: int) -> np.ndarray:
    """Return the nearest of -half ... half - 1, as float32."""
    scaled = parts_OKS * np.divide(1, scale_OK1, out=np.zeros_like(scale_OK1), where=scale_OK1 != 0)
    return np.clip(np.rint(scaled, out=scaled), -half, half - 1, out=scaled)


def pack_signed(weight_OI: np.ndarray, spec: QuantSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return quantized values (I, O) int8, a byte each, and scales (K, O) float32: inputs first."""
    levels, scales_OK = pack(weight_OI, spec)
    signed_OI = _signed(levels, spec).reshape(len(levels), -1)[:, : weight_OI.shape[1]]
    return np.ascontiguousarray(signed_OI.T), np.ascontiguousarray(scales_OK.T)


def unpack(
    levels: np.ndarray, scales_OK: np.ndarray, spec: QuantSpec, num_inputs: int
) -> np.ndarray:
    """Return the dequantized weights (O, I) float32 of values and scales that ``pack`` returned."""
    weights_OKS = _signed(levels, spec) * scales_OK[..., None]
    return weights_OKS.reshape(len(levels), -1)[:, :num_inputs]


def _signed(levels: np.ndarray, spec: QuantSpec) -> np.ndarray:
    """Return packed values as numbers around zero, (O, K, S) int8."""
    if spec.bits == 4:
        levels = np.stack((levels & 15, levels >> 4), axis=-1).reshape(*levels.shape[:2], -1)
    return (levels - np.uint8(2 ** (spec.bits - 1))).view(np.int8)  # wraps around


@contextmanager
def fake_quantized(module: nn.Module, spec: QuantSpec | None) -> Iterator[None]:
    """Make a module's linear layers compute inside the block as the graph will.

    Weights are dequantized and inputs are quantized to 8 bits and dequantized. None changes
    nothing.
    """
    if spec is None:
        yield
        return
    linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
    quantize_inputs = _fake_quantize_inputs(spec.block_size)
    with with_dequantized_weights(
        linears, spec, lambda each: [each.register_forward_pre_hook(quantize_inputs)]
    ):
        yield


@contextmanager
def with_dequantized_weights(
    layers: Sequence[nn.Linear | nn.Conv2d],
    spec: QuantSpec,
    hook: Callable[[nn.Module], list[RemovableHandle]],
) -> Iterator[None]:
    """Give layers dequantized weights (O, ...) inside the block, and what ``hook`` registers."""
    kept, hooks = [layer.weight for layer in layers], []
    try:
        for layer in layers:
            exact = layer.weight.detach().flatten(1).numpy()
            stored = unpack(*pack(exact, spec), spec, exact.shape[1])
            shaped = torch.from_numpy(stored).reshape(layer.weight.shape)
            layer.weight = nn.Parameter(shaped, requires_grad=False)
            hooks += hook(layer)
        yield
    finally:
        for each in hooks:
            each.remove()
        for layer, weight in zip(layers, kept, strict=True):
            layer.weight = weight


def _fake_quantize_inputs(
    block_size: int | None,
) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    def hook(_linear: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = inputs
        size = block_size or x.shape[-1]
        filled = F.pad(x, (0, -x.shape[-1] % size)).reshape(*x.shape[:-1], -1, size)
        scale = filled.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
        quantized = (filled / scale).round()
        return ((quantized * scale).flatten(-2)[..., : x.shape[-1]],)

    return hook
