"""Weights in tiles, as bundles store those that the CPU kernels read (docs/bundle.md).

Shapes: O outputs, I inputs, K blocks per output, S inputs per block, T tiles of 32 outputs. Mirrors
native/core/tiles.cpp.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from janus_edge.runtime.errors import BundleError
from janus_edge.runtime.limits import MOST_BYTES
from janus_edge.runtime.manifest import Stored
from janus_edge.runtime.reading import open_regular

TILE = 32  # outputs
_QUAD = 4  # inputs whose products an instruction adds


@dataclass(frozen=True)
class Layout:
    """How weights lie in tiles.

    Attributes:
        bits: Of a weight.
        block: Inputs that share a scale.
    """

    bits: int
    block: int

    @property
    def record_bytes(self) -> int:
        """Bytes of one block of a tile: its scales and its weights."""
        return TILE * (4 + self.block * self.bits // 8)

    def size(self, outputs: int, inputs: int) -> int:
        """Return the bytes of a matrix."""
        return -(-outputs // TILE) * -(-inputs // self.block) * self.record_bytes


LAYOUTS = {  # by dtype in the manifest
    "int4_tiles": Layout(4, 128),
    "int8_tiles": Layout(8, 32),
    "int8_tiles_128": Layout(8, 128),
}


def dtype_of(bits: int, block: int) -> str | None:
    """Return the dtype of tiles of so many bits and inputs per scale; None if there is none."""
    wanted = Layout(bits, block)
    return next((name for name, each in LAYOUTS.items() if each == wanted), None)


def to_tiles(quantized: np.ndarray, scales_OK: np.ndarray, layout: Layout) -> np.ndarray:
    """Lay weights out in tiles.

    Args:
        quantized: As ``pack`` returns them: (O, K, S * bits / 8) uint8, the lower nibble first.
        scales_OK: (O, K) float32.
        layout: Of the result.

    Returns:
        (T, K, bytes of a record) uint8.
    """
    outputs, blocks = scales_OK.shape
    missing = -outputs % TILE
    if layout.bits == 4:
        quantized = np.stack((quantized & 15, quantized >> 4), axis=-1)
    weights_OKS = quantized.reshape(outputs, blocks, layout.block)
    zero = 2 ** (layout.bits - 1)
    filled = np.pad(weights_OKS, ((0, missing), (0, 0), (0, 0)), constant_values=zero)
    quads = filled.reshape(-1, TILE, blocks, layout.block // _QUAD, _QUAD)
    quads = quads.transpose(0, 2, 3, 1, 4)  # tile, block, quad, output, input of the quad
    if layout.bits == 4:
        quads = quads[:, :, 0::2] | quads[:, :, 1::2] << 4
    scales = np.pad(scales_OK, ((0, missing), (0, 0))).reshape(-1, TILE, blocks)
    scales_TK = np.ascontiguousarray(scales.transpose(0, 2, 1), np.float32).view(np.uint8)
    return np.concatenate((scales_TK, quads.reshape(*scales_TK.shape[:2], -1)), axis=-1)


def from_tiles(
    tiles: np.ndarray, outputs: int, inputs: int, layout: Layout
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights and scales that ``to_tiles`` was given, bit for bit.

    Args:
        tiles: The bytes, as many as ``layout.size(outputs, inputs)``.
        outputs: O.
        inputs: I.
        layout: Of the tiles.
    """
    blocks = -(-inputs // layout.block)
    records = tiles.reshape(-1, blocks, layout.record_bytes)
    scales = np.ascontiguousarray(records[..., : 4 * TILE]).view(np.float32)
    scales_OK = scales.transpose(0, 2, 1).reshape(-1, blocks)[:outputs]
    quads = records[..., 4 * TILE :].reshape(len(records), blocks, -1, TILE, _QUAD)
    if layout.bits == 4:
        quads = np.stack((quads & 15, quads >> 4), axis=3)
        quads = quads.reshape(len(records), blocks, -1, TILE, _QUAD)
    weights = quads.transpose(0, 3, 1, 2, 4).reshape(-1, blocks, layout.block)[:outputs]
    if layout.bits == 4:
        weights = weights[..., 0::2] | weights[..., 1::2] << 4
    return np.ascontiguousarray(weights), np.ascontiguousarray(scales_OK)


def initializers(tensors: Mapping[str, Stored], data: Path) -> dict[str, np.ndarray]:
    """Return the graph's weights and scales, made from the tiles in a file.

    Args:
        tensors: Where the file holds what, as in the manifest; what is not in tiles, or not in the
            graph, is left out.
        data: The file.

    Returns:
        Arrays by the names that they have in the graph.

    Raises:
        BundleError: The file cannot be read, or tiles lie outside it.
    """
    found: dict[str, np.ndarray] = {}
    tiled = {
        name: each for name, each in tensors.items() if each.dtype in LAYOUTS and each.in_graph
    }
    if not tiled:
        return found
    mapped = map_data(data)
    for name, each in tiled.items():
        layer, layout = name.removesuffix(".tiles"), LAYOUTS[each.dtype]
        outputs, inputs = shape_of(name, each, data)
        end = each.offset + layout.size(outputs, inputs)
        if end > len(mapped) or each.offset % 4:
            raise BundleError(f"{data}: {name} is not inside; export the bundle again")
        arrays = from_tiles(mapped[each.offset : end], outputs, inputs, layout)
        found[f"{layer}.quantized"], found[f"{layer}.scales"] = arrays
    return found


def shape_of(name: str, stored: Stored, data: Path) -> tuple[int, int]:
    """Return outputs and inputs of weights in tiles. Raises BundleError if there are others."""
    if len(stored.shape) != 2:
        raise BundleError(f"{data}: {name} is no matrix; export the bundle again")
    return stored.shape[0], stored.shape[1]


def map_data(path: Path) -> np.ndarray:
    """Return the bytes of a file, mapped. Raises BundleError if there is no such file.

    Linux is asked for huge pages (docs/cpu-kernels.md, "Pages").
    """
    try:
        with os.fdopen(open_regular(path, MOST_BYTES["component"]), "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with suppress(OSError):  # a kernel without them
            if hasattr(mmap, "MADV_HUGEPAGE"):
                mapped.madvise(mmap.MADV_HUGEPAGE)
        return np.frombuffer(mapped, np.uint8)
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise BundleError(f"{path}: {error}; export the bundle again") from None
