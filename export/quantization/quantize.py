"""Symmetric quantization of the weights of matrix products, in blocks along the input.

Shapes: O outputs, I inputs, K blocks per output, S weights per block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from janus_edge.runtime.resources import num_processors

BLOCK_SIZES = (32, 64, 128)
_AT_ONCE = 2**18  # weights; the intermediate results then stay in the processor's cache
_LEAST_SCALE = np.float32(2.0**-18)  # fp16 holds it, even times the smallest of _SHRINKS
# Factors tried on the scale that the largest weight needs. Clipping a little costs the largest
# weights less than the finer steps save the others.
_SHRINKS = {4: np.linspace(1.0, 0.7, 7)}


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


def pack(weight_OI: np.ndarray, spec: QuantSpec) -> tuple[np.ndarray, np.ndarray]:
    """Quantize weights (O, I).

    The last block of an output is filled up with zeros. The scale of a block is the one of those
    tried that leaves the smallest squared error. Unless scales are to be positive, its sign maps
    the largest weight to -2 ** (bits - 1), which has no counterpart above zero.

    Returns:
        Quantized values (O, K, S * bits / 8) uint8, the lower nibble first, and scales (O, K)
        float32.
    """
    rows = max(1, _AT_ONCE // weight_OI.shape[1])
    chunks = (weight_OI[start : start + rows] for start in range(0, len(weight_OI), rows))
    with ThreadPoolExecutor(num_processors()) as pool:  # NumPy's loops release the lock
        quantized, scales = zip(*pool.map(lambda chunk: _pack(chunk, spec), chunks), strict=True)
    return np.concatenate(quantized), np.concatenate(scales)


class Packer:
    """Quantizes weights, each once: asked again for the same array, it returns the same result."""

    def __init__(self) -> None:
        """Start with nothing quantized."""
        self._known: dict[Any, tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]] = {}

    def pack(self, weight_OI: np.ndarray, spec: QuantSpec) -> tuple[np.ndarray, np.ndarray]:
        """Return ``pack`` of weights, computed now or before."""
        key = weight_OI.ctypes.data, weight_OI.shape, spec
        if key not in self._known:  # the array stays, so that no other one gets its address
            self._known[key] = weight_OI, pack(weight_OI, spec)
        return self._known[key][1]

    def forget(self) -> None:
        """Free all weights and results."""
        self._known.clear()


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
    for shrink in _SHRINKS.get(spec.bits, ()):
        scale_OK1 = full_OK1 * np.float32(shrink)
        error_OKS = _quantized(parts_OKS, scale_OK1, half)
        error_OKS *= scale_OK1
        error_OKS -= parts_OKS
        error_OK1 = np.einsum("oks,oks->ok", error_OKS, error_OKS)[..., None]
        best_OK1 = np.where(error_OK1 < least_OK1, scale_OK1, best_OK1)
        least_OK1 = np.minimum(error_OK1, least_OK1)
    unsigned = (_quantized(parts_OKS, best_OK1, half) + half).astype(np.uint8)
    if spec.bits == 4:
        unsigned = unsigned[..., 0::2] | unsigned[..., 1::2] << 4
    return unsigned, best_OK1[..., 0]


def _quantized(parts_OKS: np.ndarray, scale_OK1: np.ndarray, half: int) -> np.ndarray:
    """Return the nearest of -half ... half - 1, as float32."""
    scaled = parts_OKS * np.divide(1, scale_OK1, out=np.zeros_like(scale_OK1), where=scale_OK1 != 0)
    return np.clip(np.rint(scaled, out=scaled), -half, half - 1, out=scaled)


def signed(
    quantized: np.ndarray, scales_OK: np.ndarray, spec: QuantSpec, num_inputs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return packed weights as (I, O) int8, a byte each, and scales (K, O): inputs first."""
    signed_OI = _signed(quantized, spec).reshape(len(quantized), -1)[:, :num_inputs]
    return np.ascontiguousarray(signed_OI.T), np.ascontiguousarray(scales_OK.T)


def unpack(
    quantized: np.ndarray, scales_OK: np.ndarray, spec: QuantSpec, num_inputs: int
) -> np.ndarray:
    """Return the dequantized weights (O, I) float32."""
    weights_OKS = _signed(quantized, spec) * scales_OK[..., None]
    return weights_OKS.reshape(len(quantized), -1)[:, :num_inputs]


def _signed(quantized: np.ndarray, spec: QuantSpec) -> np.ndarray:
    """Return packed values as numbers around zero (O, K, S), int8."""
    if spec.bits == 4:
        nibbles = np.stack((quantized & 15, quantized >> 4), axis=-1)
        quantized = nibbles.reshape(*quantized.shape[:2], -1)
    return (quantized - np.uint8(2 ** (spec.bits - 1))).view(np.int8)  # wraps around


@contextmanager
def fake_quantized(
    module: nn.Module, spec: QuantSpec | None, packer: Packer | None = None
) -> Iterator[None]:
    """Make a module's linear layers compute inside the block as the graph will.

    Weights are dequantized, inputs are quantized to 8 bits and dequantized.

    Args:
        module: The module.
        spec: How the weights are quantized; None changes nothing.
        packer: May have quantized them before.
    """
    if spec is None:
        yield
        return
    linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
    quantize_inputs = _fake_quantize_inputs(spec.block_size)

    def hook(layer: nn.Module) -> list[RemovableHandle]:
        return [layer.register_forward_pre_hook(quantize_inputs)]

    with with_dequantized_weights(linears, spec, hook, packer):
        yield


@contextmanager
def with_dequantized_weights(
    layers: Sequence[nn.Linear | nn.Conv2d],
    spec: QuantSpec,
    hook: Callable[[nn.Module], list[RemovableHandle]],
    packer: Packer | None = None,
) -> Iterator[None]:
    """Give layers dequantized weights (O, ...) inside the block, and what ``hook`` registers."""
    kept, hooks = [layer.weight for layer in layers], []
    try:
        for layer in layers:
            exact = layer.weight.detach().flatten(1).numpy()
            packed = (packer or Packer()).pack(exact, spec)
            stored = unpack(*packed, spec, exact.shape[1])
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
