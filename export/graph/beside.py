"""What the CPU kernels need and a graph does not, behind the graph's weights in the file.

Convolutions and vectors; docs/cpu-kernels.md lists them. Shapes: O outputs, I inputs, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from janus_edge.export.graph.builder import ALIGNMENT
from janus_edge.export.quantization.quantize import QuantSpec, pack
from janus_edge.model import codebook, vae
from janus_edge.model.codebook import AttnBlock, ResnetBlock, VQTokenizer
from janus_edge.model.config import CodebookConfig, VisionConfig
from janus_edge.model.vae import VAE, VAEConfig
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


def fits_codes(config: CodebookConfig) -> bool:
    """Return True if the kernels take the maps of a VQ decoder."""
    channels = [config.channels * each for each in config.decoder_ch_mult]
    return _fits(channels, config.num_groups)


def fits_latents(config: VAEConfig) -> bool:
    """Return True if the kernels take the maps of an autoencoder's decoder."""
    return _fits(config.block_out_channels, config.norm_num_groups)


def _fits(channels: Sequence[int], num_groups: int) -> bool:
    """Return True for whole vectors and whole groups."""
    return all(each % _LANES == 0 and each % num_groups == 0 for each in channels)


def codes_beside(vq: VQTokenizer, data: Path) -> dict[str, Stored]:
    """Append what ``native/cpu/image_decoder.c`` reads: the codebook, and the decoder as steps."""
    decoder, cells = vq.decoder, vq.post_quant_conv
    assert cells.bias is not None
    with torch.no_grad():
        table = {"codebook": vq.quantize.table().numpy()}
    ends = {"first": decoder.conv_in, "last_norm": decoder.norm_out, "last": decoder.conv_out}
    steps = [*decoder.mid, *_blocks(decoder.conv_blocks)]
    return _decoder_beside(data, table | _cells(cells.weight, cells.bias), ends, steps)


def latents_beside(model: VAE, data: Path) -> dict[str, Stored]:
    """Append what ``native/cpu/image_decoder.c`` reads of the decoder of scaled latents."""
    decoder, cells, middle = model.decoder, model.post_quant_conv, model.decoder.mid_block
    assert cells.bias is not None
    ends = {
        "first": decoder.conv_in,
        "last_norm": decoder.conv_norm_out,
        "last": decoder.conv_out,
    }
    steps = [middle.resnets[0], middle.attentions[0], middle.resnets[1]]
    weight = cells.weight / model.config.scaling_factor
    floats = _cells(weight, cells.bias)
    return _decoder_beside(data, floats, ends, [*steps, *_blocks(decoder.up_blocks)])


def _cells(weight_OC11: Tensor, bias_O: Tensor) -> dict[str, np.ndarray]:
    """Return the 1x1 convolution of a code's vector or a latent's cell."""
    return {"cells.weight": _array(weight_OC11.flatten(1).T), "cells.bias": _array(bias_O)}


def _decoder_beside(
    data: Path,
    floats: dict[str, np.ndarray],
    ends: Mapping[str, nn.Module],
    steps: Iterable[nn.Module],
) -> dict[str, Stored]:
    """Append a decoder: ``floats``, the layers before and after the steps, and the steps."""
    layers = dict(ends)
    for number, block in enumerate(steps):
        layers |= {f"steps.{number}.{name}": each for name, each in _layers(block).items()}
    matrices: dict[str, tuple[np.ndarray, QuantSpec]] = {}
    for name, layer in layers.items():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            floats |= {f"{name}.{part}": _array(value) for part, value in layer.named_parameters()}
            continue
        whole = layer.weight if isinstance(layer, nn.Conv2d) else layer.weight[:, :, None, None]
        weights = _phases(whole) if name.endswith(".double") else {"": whole}
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


def _blocks(levels: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Return the blocks of all levels, in the order in which they run."""
    for level in levels:
        if isinstance(level, codebook.Level):
            for index, res in enumerate(level.res):
                yield from (res, *([level.attn[index]] if len(level.attn) else []))
        else:
            assert isinstance(level, vae.Level)
            yield from level.resnets
        if level.resize is not None:
            resize = level.get_submodule(level.resize)
            yield resize[0] if isinstance(resize, nn.ModuleList) else resize


def _layers(block: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of a step by the names of native/cpu/image_decoder.c."""
    if isinstance(block, ResnetBlock):
        names = {name: name for name in ("norm1", "conv1", "norm2", "conv2")}
        if block.shortcut is not None:
            names["shortcut"] = block.shortcut
    elif isinstance(block, AttnBlock):
        names = {name: name for name in ("norm", "q", "k", "v", "proj_out")}
    elif isinstance(block, vae.Attention):
        names = {
            "norm": "group_norm",
            "q": "to_q",
            "k": "to_k",
            "v": "to_v",
            "proj_out": "to_out.0",
        }
    else:
        names = {"double": "conv"}
    return {name: block.get_submodule(own) for name, own in names.items()}
