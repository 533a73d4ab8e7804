"""Weights in tiles: their bytes, the way back, and the graph that is made from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from janus_edge.export.bundle.entries import graph_entry
from janus_edge.export.graph.builder import Graph, info, save_graph
from janus_edge.export.graph.components import graph_components
from janus_edge.export.graph.lowering import LOWERINGS
from janus_edge.export.graph.tiled import tiles_of
from janus_edge.export.quantization.presets import PRESETS
from janus_edge.export.quantization.quantize import QuantSpec, pack
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime import manifest
from janus_edge.runtime.backends.onnxruntime import load_graph
from janus_edge.runtime.errors import BundleError
from janus_edge.runtime.tiles import LAYOUTS, from_tiles, initializers, to_tiles

SPECS = {
    "int4_tiles": QuantSpec(bits=4, block_size=128),
    "int8_tiles": QuantSpec(bits=8, block_size=32),
}
WIDE = {"int8_tiles_128": QuantSpec(bits=8, block_size=128)}  # beside a graph with its own weights
SHAPES = [(32, 128), (64, 256), (1, 1), (33, 129), (70, 300), (456, 256)]


def _weights(outputs: int, inputs: int) -> np.ndarray:
    return np.random.default_rng(outputs).standard_normal((outputs, inputs), np.float32)


@pytest.mark.parametrize("dtype", SPECS | WIDE)
@pytest.mark.parametrize("shape", SHAPES)
def test_both_directions(dtype: str, shape: tuple[int, int]) -> None:
    quantized, scales = pack(_weights(*shape), (SPECS | WIDE)[dtype])
    tiles = to_tiles(quantized, scales, LAYOUTS[dtype])
    assert tiles.nbytes == LAYOUTS[dtype].size(*shape)
    found = from_tiles(tiles.reshape(-1), *shape, LAYOUTS[dtype])
    assert np.array_equal(found[0], quantized)
    assert np.array_equal(found[1], scales)


@pytest.mark.parametrize("dtype", SPECS | WIDE)
def test_the_bytes_are_those_of_the_specification(dtype: str) -> None:
    """Each weight is looked up where docs/bundle.md says that it lies."""
    outputs, inputs = 40, 200
    is_int4, spec = dtype == "int4_tiles", (SPECS | WIDE)[dtype]
    assert spec.block_size is not None
    quantized, scales = pack(_weights(outputs, inputs), spec)
    tiles = to_tiles(quantized, scales, LAYOUTS[dtype])
    per_group = 8 if is_int4 else 4
    for output in (0, 1, 31, 32, 39):
        for number in (0, 3, 4, 7, 8, 31, 127, 128, 199):
            block, at = divmod(number, spec.block_size)
            record, o = tiles[output // 32, block], output % 32
            assert record[: 4 * 32].view(np.float32)[o] == scales[output, block]
            group, i = divmod(at, per_group)
            byte = record[128 + 128 * group + 4 * o + i % 4]
            if is_int4:
                stored = quantized[output, block, at // 2] >> 4 * (at % 2) & 15
                assert byte >> (4 if i >= 4 else 0) & 15 == stored
            else:
                assert byte == quantized[output, block, at]
    missing = tiles[1, 0]  # outputs 40 to 63 do not exist
    assert not missing[4 * 8 : 4 * 32].any()
    assert (missing[128 + 4 * 8 : 256] == (0x88 if is_int4 else 128)).all()


def _graph(folder: Path, name: str, weight: np.ndarray, spec: QuantSpec, tiled: bool) -> Path:
    graph = Graph(LOWERINGS["onnxruntime"], folder / f"{name}.data", spec, tiled=tiled)
    graph.linear("x", "y", torch.from_numpy(weight), torch.arange(len(weight)) * 0.1)
    ends = [info("x", 1, ["R", weight.shape[1]])], [info("y", 1, ["R", len(weight)])]
    save_graph(graph.model(name, *ends), folder / f"{name}.onnx")
    return folder / f"{name}.onnx"


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_graph_equals_one_that_was_exported_for_onnx_runtime(
    spec: QuantSpec, tmp_path: Path
) -> None:
    weight = _weights(70, 256)
    x = np.random.default_rng(0).standard_normal((5, 256), np.float32)
    plain = load_graph(_graph(tmp_path, "plain", weight, spec, False), 1)
    path = _graph(tmp_path, "tiled", weight, spec, True)
    tiles = tiles_of(onnx.load(path, load_external_data=False).graph)
    assert [each.shape for each in tiles.values()] == [(70, 256)]
    weights = initializers(tiles, tmp_path / "tiled.data")
    (found,) = load_graph(path, 1, weights=weights).run({"x": x})
    assert np.array_equal(found, plain.run({"x": x})[0])


@pytest.mark.parametrize("name", ["decoder", "image_head", "text_head"])
def test_a_component_equals_itself_without_tiles(
    name: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """The widths here are no multiples of a tile or of a block of 128."""
    (part,) = (
        each for each in graph_components(checkpoint, 96, PRESETS["int4"]) if each.name == name
    )
    path, data, whole = tmp_path / "tiled.onnx", tmp_path / "tiled.data", tmp_path / "whole.onnx"
    proto = part.build(data)
    save_graph(proto, path)
    save_graph(part.build(None), whole)  # in the graph there are no tiles
    entry = manifest.Component(**graph_entry(part, proto, path, data, "int4"))
    assert any(each.dtype in LAYOUTS for each in entry.tensors.values())
    tiled, plain = (
        load_graph(path, 1, weights=initializers(entry.tensors, data)),
        load_graph(whole, 1),
    )
    for feeds in part.examples():
        for found, expected in zip(tiled.run(feeds), plain.run(feeds), strict=True):
            assert np.array_equal(found, expected)


def test_tiles_are_never_read_as_other_weights(tmp_path: Path) -> None:
    path = _graph(tmp_path, "tiled", _weights(64, 256), SPECS["int4_tiles"], True)
    with pytest.raises(BundleError, match="cannot open it"):
        load_graph(path, 1)


@pytest.mark.parametrize("offset", [4096, 2])  # beyond the end; not aligned
def test_tiles_outside_the_file_are_refused(tmp_path: Path, offset: int) -> None:
    path = _graph(tmp_path, "tiled", _weights(64, 256), SPECS["int4_tiles"], True)
    tiles = tiles_of(onnx.load(path, load_external_data=False).graph)
    beyond = {name: each.model_copy(update={"offset": offset}) for name, each in tiles.items()}
    with pytest.raises(BundleError, match=r"y\.weight\.tiles is not inside"):
        initializers(beyond, tmp_path / "tiled.data")
