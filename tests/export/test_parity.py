from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from janus_edge.export.components import graph_components, save_graph
from janus_edge.export.parity import ParityError, check_parity, relative_error
from janus_edge.export.storage import store_halves
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime.backends import load_engine


def test_a_wrong_weight_fails_the_export(checkpoint: Checkpoint, tmp_path: Path) -> None:
    part = next(c for c in graph_components(checkpoint.model, 96) if c.name == "decoder")
    proto = part.build()
    save_graph(proto, tmp_path / "right.onnx")
    assert check_parity(part, tmp_path / "right.onnx") <= 1e-4
    (weight,) = [i for i in proto.graph.initializer if i.name == "layers.1.o_proj.weight"]
    array = numpy_helper.to_array(weight).copy()
    array[0] *= 1.1
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    save_graph(proto, tmp_path / "wrong.onnx")
    with pytest.raises(ParityError, match="decoder: hidden differs"):
        check_parity(part, tmp_path / "wrong.onnx")


def test_relative_error() -> None:
    reference = np.array([1.0, -4.0], np.float32)
    assert relative_error(reference, reference) == 0
    assert relative_error(reference + np.float32(0.04), reference) == pytest.approx(0.01, rel=1e-3)
    assert relative_error(reference[:1], reference) == np.inf
    assert relative_error(reference * np.nan, reference) == np.inf
    assert relative_error(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])) == 0.25


def test_steps_after_a_prefill_equal_one_pass(checkpoint: Checkpoint, bundle_dir: Path) -> None:
    """Through the exported decoder. Chunks after the first are for one row only: ONNX Runtime's
    GroupQueryAttention takes several new positions on a filled cache for a batch of one."""
    config = checkpoint.model.config.language
    engine = load_engine("onnxruntime", bundle_dir / "decoder.onnx", 1)
    x = np.random.default_rng(0).standard_normal((2, 20, config.hidden_size)).astype(np.float32)
    names = [f"{part}_{i}" for i in range(config.num_hidden_layers) for part in "kv"]

    def run(rows: int, pieces: list[int]) -> np.ndarray:
        shape = (rows, config.num_key_value_heads, 32, config.head_dim)
        caches = {name: np.zeros(shape, np.float32) for name in names}
        hidden, start = [], 0
        for stop in pieces:
            feeds = {
                "embeds": x[:rows, start:stop],
                "positions": np.tile(np.arange(start, stop), (rows, 1)),
                "lengths": np.full(rows, stop),
            }
            outputs = engine.run(feeds | {f"past_{n}": cache for n, cache in caches.items()})
            hidden.append(outputs[0])
            caches = dict(zip(names, outputs[1:], strict=True))
            start = stop
        return np.concatenate(hidden, axis=1)

    full = run(2, [20])
    assert run(2, [8, *range(9, 21)]) == pytest.approx(full, abs=1e-5)
    assert run(2, list(range(1, 21))) == pytest.approx(full, abs=1e-5)
    assert run(1, [8, 9, 10, 20]) == pytest.approx(full[:1], abs=1e-5)


def test_halves_are_stored_only_where_nothing_is_lost(checkpoint: Checkpoint) -> None:
    part = next(c for c in graph_components(checkpoint.model, 96) if c.name == "image_head")
    proto = part.build()
    before = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    assert store_halves(proto) == "float16"
    kept = 0
    for initializer in proto.graph.initializer:
        array, name = numpy_helper.to_array(initializer), initializer.name.removesuffix(".half")
        assert np.array_equal(array.astype(np.float32), before[name].astype(np.float32))
        kept += array.dtype == np.float16
    assert kept
    odd = np.full((20, 20), 1 / 3, np.float32)
    body = onnx.helper.make_graph([], "g", [], [], [numpy_helper.from_array(odd, "w")])
    other = onnx.helper.make_model(body)
    assert store_halves(other) == "float32"
    assert np.array_equal(numpy_helper.to_array(other.graph.initializer[0]), odd)


def test_every_component_declares_what_it_takes(bundle_dir: Path) -> None:
    from janus_edge.runtime.bundle import open_bundle

    manifest = open_bundle(bundle_dir).manifest
    shapes = {
        name: {tensor.name: tensor.shape for tensor in (*part.inputs, *part.outputs)}
        for name, part in manifest.components.items()
    }
    assert shapes["decoder"]["embeds"] == ("R", "T", 48)
    assert shapes["decoder"]["lengths"] == ("R",)
    assert shapes["decoder"]["past_k_0"] == ("R", 3, "M", 16)
    assert shapes["image_decoder"] == {"codes": ("B", 16), "pixels": ("B", 3, 32, 32)}
    for part in manifest.components.values():
        named = {dim for t in part.inputs for dim in t.shape if isinstance(dim, str)}
        assert part.backend == "table" or named == set(part.profile)


def test_a_failed_export_leaves_nothing(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from janus_edge.export import bundle, parity

    monkeypatch.setattr(parity, "TOLERANCE", -1.0)
    with pytest.raises(ParityError):
        bundle.export_bundle(checkpoint, tmp_path / "b", max_length=96, report=lambda line: None)
    assert list(tmp_path.iterdir()) == []
