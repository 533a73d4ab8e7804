"""What the CPU kernels need and a graph does not, behind the graph's weights in the file.

Convolutions and vectors; docs/cpu-kernels.md lists them. Shapes: O outputs, I inputs, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from janus_edge.export.graph.builder import ALIGNMENT
from janus_edge.export.quantization.quantize import QuantSpec, pack
from janus_edge.model.codebook import AttnBlock, Decoder, Level, ResnetBlock, VQTokenizer
from janus_edge.model.config import CodebookConfig, VisionConfig
from janus_edge.model.vision import VisionTower
from janus_edge.runtime.manifest import Stored
from janus_edge.runtime.tiles import Layout, dtype_of, to_tiles

WIDE = QuantSpec(bits=8, block_size=128)  # of matrices that see many rows
_NARROW = QuantSpec(bits=8, block_size=32)  # of convolutions of few channels
_LANES = 16  # channels that kernels take at once


def write_beside(
    data: Path,
    matrices: Mapping[str, tuple[np.ndarray, QuantSpec]],
    floats: Mapping[str, np.ndarray],
) -> dict[str, Stored]:
    """Append matrices in tiles, and arrays of float32, to a file; return where they lie.

    Args:
        data: The file; it is made if there is none.
        matrices: Weights (O, I) by layer, and how they are quantized.
        floats: Arrays by name.
    """
    found: dict[str, Stored] = {}
    with data.open("ab") as file:
        for name, (weight_OI, spec) in matrices.items():
            assert spec.block_size is not None
            quantized, scales = pack(weight_OI, spec)
            tiles = to_tiles(quantized, scales, Layout(spec.bits, spec.block_size))
            dtype: Any = dtype_of(spec.bits, spec.block_size)
            place = _append(file, tiles)
            found[f"{name}.weight.tiles"] = Stored(
                dtype=dtype, shape=weight_OI.shape, offset=place, in_graph=False
            )
        for name, array in floats.items():
            place = _append(file, np.ascontiguousarray(array, np.float32))
            found[name] = Stored(dtype="float32", shape=array.shape, offset=place)
    return found


def _append(file: BinaryIO, array: np.ndarray) -> int:
    file.write(b"\0" * (-file.tell() % ALIGNMENT))
    place = file.tell()
    file.write(np.ascontiguousarray(array).data)
    return place


def _spec_of(channels: int) -> QuantSpec:
    """Return how a convolution of so many channels is quantized: blocks are not filled in vain."""
    return _NARROW if channels % 128 else WIDE


def linear_weights(module: nn.Module, prefix: str = "") -> dict[str, np.ndarray]:
    """Return the weights (O, I) of all linear layers by name, less a prefix."""
    return {
        name.removeprefix(prefix): layer.weight.detach().numpy()
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    }


def vision_beside(tower: VisionTower, data: Path) -> dict[str, Stored]:
    """Append what ``native/cpu/encoder.c`` reads: patch embedding, positions, norms and biases."""
    patches = tower.patch_embed.proj.weight.detach().flatten(1).numpy()
    floats = {
        name: value.detach().numpy()
        for name, value in tower.named_parameters()
        if name.endswith(".bias") or "norm" in name or name == "pos_embed"
    }
    matrices = {"patch_embed.proj": (patches, _spec_of(patches.shape[1]))}
    return write_beside(data, matrices, floats)


def biases_beside(module: nn.Module, data: Path) -> dict[str, Stored]:
    """Append the biases of all linear layers."""
    biases = (pair for pair in module.named_parameters() if pair[0].endswith(".bias"))
    return write_beside(data, {}, {name: value.detach().numpy() for name, value in biases})


def fits_vision(config: VisionConfig) -> bool:
    """Return True if the kernels take these sizes: heads are whole vectors."""
    return config.width % config.heads == 0 and config.width // config.heads % _LANES == 0


def fits_images(config: CodebookConfig) -> bool:
    """Return True if the kernels take maps of these channels: whole vectors, whole groups."""
    channels = [config.channels * each for each in config.decoder_ch_mult]
    return all(each % _LANES == 0 and each % config.num_groups == 0 for each in channels)


def image_decoder_beside(vq: VQTokenizer, data: Path) -> dict[str, Stored]:
    """Append what ``native/cpu/image_decoder.c`` reads: the codebook, and the decoder as steps."""
    decoder, cells = vq.decoder, vq.post_quant_conv
    assert cells.bias is not None
    with torch.no_grad():
        floats = {
            "codebook": vq.quantize.table().numpy(),
            "cells.weight": cells.weight.flatten(1).T.numpy(),
            "cells.bias": cells.bias.numpy(),
            "last_norm.weight": decoder.norm_out.weight.numpy(),
            "last_norm.bias": decoder.norm_out.bias.numpy(),
        }
    layers: dict[str, nn.Module] = {"first": decoder.conv_in, "last": decoder.conv_out}
    for number, step in enumerate(_steps(decoder)):
        layers |= {f"steps.{number}.{name}": layer for name, layer in step.items()}
    matrices: dict[str, tuple[np.ndarray, QuantSpec]] = {}
    for name, layer in layers.items():
        if not isinstance(layer, nn.Conv2d):
            floats |= {f"{name}.{part}": _array(value) for part, value in layer.named_parameters()}
            continue
        weights = _phases(layer.weight) if name.endswith(".double") else {"": layer.weight}
        assert layer.bias is not None
        matrices |= {f"{name}{phase}": _matrix(each) for phase, each in weights.items()}
        floats |= {f"{name}{phase}.bias": _array(layer.bias) for phase in weights}
    return write_beside(data, matrices, floats)


def _array(value: Tensor) -> np.ndarray:
    return value.detach().numpy()


def _phases(weight_OCHW: Tensor) -> dict[str, Tensor]:
    """Return the 3x3 weight for pixels that are repeated, as weights (O, C, 2, 2) for one of each.

    In an even row of the result, a window's last two rows are the same row of the input; in an odd
    row its first two are. So are columns.
    """

    def halves(weight: Tensor, axis: int) -> dict[str, Tensor]:
        first, middle, last = weight.unbind(axis)
        even, odd = (first, middle + last), (first + middle, last)
        return {"even": torch.stack(even, axis), "odd": torch.stack(odd, axis)}

    return {
        f".{row}_{column}": weight
        for row, of_row in halves(weight_OCHW.detach(), 2).items()
        for column, weight in halves(of_row, 3).items()
    }


def _matrix(weight_OCHW: Tensor) -> tuple[np.ndarray, QuantSpec]:
    """Return a convolution as a matrix (O, taps x C): each tap is filled up to whole blocks."""
    outputs, channels = weight_OCHW.shape[:2]
    spec = _spec_of(channels)
    assert spec.block_size is not None
    taps_OTC = _array(weight_OCHW.flatten(2).transpose(1, 2))
    filled = np.pad(taps_OTC, ((0, 0), (0, 0), (0, -channels % spec.block_size)))
    return np.ascontiguousarray(filled.reshape(outputs, -1)), spec


def _steps(decoder: Decoder) -> list[dict[str, nn.Module]]:
    """Return the layers of each step, in order, by the names of native/cpu/image_decoder.c."""
    blocks: list[nn.Module] = list(decoder.mid)
    for level in decoder.conv_blocks:
        assert isinstance(level, Level)
        for index, res in enumerate(level.res):
            blocks += [res, *([level.attn[index]] if len(level.attn) else [])]
        if level.resize is not None:
            blocks.append(level.get_submodule(level.resize))
    return [_layers(block) for block in blocks]


def _layers(block: nn.Module) -> dict[str, nn.Module]:
    if isinstance(block, ResnetBlock):
        names = {name: name for name in ("norm1", "conv1", "norm2", "conv2")}
        if block.shortcut is not None:
            names["shortcut"] = block.shortcut
    elif isinstance(block, AttnBlock):
        names = {name: name for name in ("norm", "q", "k", "v", "proj_out")}
    else:
        names = {"double": "conv"}
    return {name: block.get_submodule(own) for name, own in names.items()}
