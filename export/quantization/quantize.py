"""Weights in few bits: symmetric, in spec along the input, each block with a scale.

What is rounded is the weights of products alone; a preset says to what, a part of the model each.
Shapes: O outputs, I inputs, K spec an output, S weights a block.
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
_AT_ONCE = 2**18  # weights: what is computed on the way stays in the processor's cache
# Of a block's largest weight, what the largest level may stand for: clipping a little costs the
# large ones less than the finer steps save the others.
_LEAST_SCALE = np.float32(2.0**-18)  # half precision holds it, and what shrinks leave of it
_SHRINKS = {4: np.linspace(1.0, 0.7, 7), 8: np.ones(1)}


@dataclass(frozen=True, kw_only=True)
class QuantSpec:
    """Weights of 4 or 8 bits, with one scale per block of 32, 64 or 128 inputs or per output.

    Products round their inputs to 8 bits, too, as many at a time (``accuracy_level`` 4 of ONNX
    Runtime's MatMulNBits; MatMulIntegerToFloat for whole outputs, which reads more but computes
    faster: for parts that see many rows at once).
    """

    bits: int
    block_size: int | None = None  # None: one scale per output (per channel)
    positive_scales: bool = False  # else a block's largest weight maps to -2 ** (bits - 1)

    @property
    def dtype(self) -> str:
        """As the manifest says it."""
        return f"int{self.bits}"

    @property
    def granularity(self) -> str:
        """What has one scale, as the manifest says it."""
        return f"blocks of {self.block_size}" if self.block_size else "per-channel"


CACHE_TYPES = ("float32", "int8")
LOWERING_NAMES = ("onnxruntime", "portable")  # of export/graph/lowering.py


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How the parts of a model are stored; None: as in the checkpoint, fp16 where that is exact.

    vision_and_flow: the parts that see all rows of an image at once. convolutions: whether those of
    the VQ decoder are quantized (convolutions.py). prefill: of a second copy of the decoder for
    prompts; None: no copy. cache: dtype of keys and values; int8 has a scale per channel
    (calibrate.py). fp16: whether everything else, tables too, is rounded to fp16. lowering: to
    which operators (graph/lowering.py).
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


# Chosen from docs/quantization.md. Guidance amplifies an error of the image head by its scale, so
# heads keep 8 bits.
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
    """A preset, with blocks of another size in its decoder, another cache, a copy of the decoder
    for prefill ("int8"), or other operators. Raises OptionError."""
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
    """What TensorRT takes of a preset: blocks in the decoder and the heads, with positive scales,
    that divide the sizes of their inputs; all else in fp16, keys and values among it."""

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
    """Levels (O, K, S * bits / 8) uint8, the lower nibble first, and scales (O, K) float32.

    The last block of an output is filled with zeros. The scale of a block is the one of those tried
    that leaves the smallest squared error; unless it is to be positive, its sign lets the largest
    weight have the one level that has no negative.
    """
    rows = max(1, _AT_ONCE // weight_OI.shape[1])
    parts = [_pack(weight_OI[i : i + rows], spec) for i in range(0, len(weight_OI), rows)]
    levels, scales = zip(*parts, strict=True)
    return np.concatenate(levels), np.concatenate(scales)


def _pack(weight_OI: np.ndarray, spec: QuantSpec) -> tuple[np.ndarray, np.ndarray]:
    half = 2 ** (spec.bits - 1)
    size = spec.block_size or weight_OI.shape[1]
    filled = np.pad(weight_OI.astype(np.float32), ((0, 0), (0, -weight_OI.shape[1] % size)))
    parts_OKS = filled.reshape(len(filled), -1, size)
    if spec.positive_scales:
        least, most = parts_OKS.min(-1, keepdims=True), parts_OKS.max(-1, keepdims=True)
        full_OK1 = np.maximum(most / np.float32(half - 1), least / np.float32(-half))
        full_OK1 = np.maximum(full_OK1, _LEAST_SCALE)  # also of zeros alone
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
    """The nearest of -half ... half - 1, as float32."""
    scaled = parts_OKS * np.divide(1, scale_OK1, out=np.zeros_like(scale_OK1), where=scale_OK1 != 0)
    return np.clip(np.rint(scaled, out=scaled), -half, half - 1, out=scaled)


def pack_signed(weight_OI: np.ndarray, spec: QuantSpec) -> tuple[np.ndarray, np.ndarray]:
    """Levels (I, O) int8, a byte each, and scales (K, O) float32: inputs first."""
    levels, scales_OK = pack(weight_OI, spec)
    signed_OI = _signed(levels, spec).reshape(len(levels), -1)[:, : weight_OI.shape[1]]
    return np.ascontiguousarray(signed_OI.T), np.ascontiguousarray(scales_OK.T)


def unpack(
    levels: np.ndarray, scales_OK: np.ndarray, spec: QuantSpec, num_inputs: int
) -> np.ndarray:
    """The weights (O, I) that levels and scales stand for, float32."""
    weights_OKS = _signed(levels, spec) * scales_OK[..., None]
    return weights_OKS.reshape(len(levels), -1)[:, :num_inputs]


def _signed(levels: np.ndarray, spec: QuantSpec) -> np.ndarray:
    """Packed levels as numbers around zero (O, K, S), int8."""
    if spec.bits == 4:
        levels = np.stack((levels & 15, levels >> 4), axis=-1).reshape(*levels.shape[:2], -1)
    return (levels - np.uint8(2 ** (spec.bits - 1))).view(np.int8)  # wraps around


@contextmanager
def fake_quantized(module: nn.Module, spec: QuantSpec | None) -> Iterator[None]:
    """Let a module's linear layers compute in the block as the graph will: from dequantized weights
    and from inputs rounded to 8 bits."""
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
    """Give layers dequantized weights (O, ...) and hooks inside the block."""
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
