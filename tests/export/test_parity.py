from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from janus_edge.export.bundle import writer
from janus_edge.export.bundle.writer import export_bundle
from janus_edge.export.graph import builder as graphs
from janus_edge.export.graph import parity
from janus_edge.export.graph.builder import save_graph
from janus_edge.export.graph.component import Component, relative_error
from janus_edge.export.graph.components import code_error, graph_components
from janus_edge.export.graph.parity import Parity, ParityError, measure_parity
from janus_edge.export.graph.storage import LARGEST_ERROR, halve, store_halves
from janus_edge.model.janus import Janus
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime.backends.onnxruntime import load_graph
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.errors import BundleError
from janus_edge.runtime.events import Image
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session
from tests.conftest import RANDOM


def component(checkpoint: Checkpoint, name: str) -> Component:
    return next(c for c in graph_components(checkpoint, 96, image_encoder=True) if c.name == name)


def check(part: Component, path: Path, upcast: str = "load") -> float:
    examples = part.examples()
    return measure_parity(part, path, upcast, examples, part.references(examples)).error


def test_a_wrong_weight_fails_the_export(checkpoint: Checkpoint, tmp_path: Path) -> None:
    part = component(checkpoint, "decoder")
    proto = part.build(None)
    save_graph(proto, tmp_path / "right.onnx")
    error = check(part, tmp_path / "right.onnx")
    assert error <= 1e-4
    assert str(Parity(error, 1e-4)) == f"ok (limit 1.0e-04, error {error:.1e})"
    (weight,) = [i for i in proto.graph.initializer if i.name == "layers.1.o_proj.weight"]
    array = numpy_helper.to_array(weight).copy()
    array[0] *= 1.1
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    save_graph(proto, tmp_path / "wrong.onnx")
    with pytest.raises(ParityError, match="decoder: hidden differs"):
        check(part, tmp_path / "wrong.onnx")


def test_an_image_encoder_knows_plain_backgrounds(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Its graph gives the codes of the reference, reserved ones in plain cells."""
    torch.manual_seed(0)
    book = dataclasses.replace(RANDOM.codebook, plain=((255, 255, 255), (9, 9, 9)), recoloured=True)
    model = Janus(dataclasses.replace(RANDOM, codebook=book)).eval()
    part = component(dataclasses.replace(checkpoint, model=model), "image_encoder")
    save_graph(part.build(None), tmp_path / "encoder.onnx")
    assert check(part, tmp_path / "encoder.onnx") < 1e-3
    pixels = torch.rand(3, 3, 32, 32) * 2 - 1
    pixels[:, :, :16] = torch.tensor([255, 9, 9])[:, None, None, None] / 127.5 - 1
    (codes,) = load_graph(tmp_path / "encoder.onnx").run({"pixels": pixels.numpy()})
    with torch.no_grad():
        assert np.array_equal(codes, model.gen_vision_model.encode(pixels).numpy())
    assert (codes.reshape(3, 4, 4)[:, :2] == [[[0]], [[1]], [[1]]]).all()


def test_a_wrong_slice_fails_the_export(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are used slice by slice, several slices each, from a file beside the graph."""
    monkeypatch.setattr(graphs, "SLICE", 48 * 20)
    part, data = component(checkpoint, "decoder"), tmp_path / "decoder.data"
    proto = part.build(data)
    save_graph(proto, tmp_path / "decoder.onnx")
    sliced = [i for i in proto.graph.initializer if i.name.startswith("layers.0.gate_proj")]
    assert [tuple(i.dims) for i in sliced] == [(48, 20)] * 4
    assert {i.data_type for i in sliced} == {onnx.TensorProto.FLOAT16}
    assert store_halves(proto) == "float16"
    assert check(part, tmp_path / "decoder.onnx", "use") <= 1e-4
    raw = bytearray(data.read_bytes())
    offset = int(next(e.value for e in sliced[2].external_data if e.key == "offset"))
    raw[offset + 1 : offset + 400 : 2] = b"\x40" * 200
    data.write_bytes(raw)
    with pytest.raises(ParityError, match="decoder: hidden differs"):
        check(part, tmp_path / "decoder.onnx", "use")


def test_pieces_give_what_the_whole_gives(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph run in pieces is checked as strictly: a wrong weight in any piece is found."""
    part = component(checkpoint, "decoder")
    assert part.cuts == ()
    part = dataclasses.replace(part, cuts=("layers.0",))
    proto = part.build(tmp_path / "decoder.data")
    save_graph(proto, tmp_path / "decoder.onnx")
    opened = []
    load = parity.load_graph
    monkeypatch.setattr(
        parity,
        "load_graph",
        lambda *words, **options: opened.append(words) or load(*words, **options),
    )
    assert check(part, tmp_path / "decoder.onnx", "use") <= 1e-4
    assert len(opened) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decoder.data", "decoder.onnx"]
    for layer in ("layers.0.", "layers.1."):
        wrong = onnx.load(tmp_path / "decoder.onnx", load_external_data=False)
        for norm in (
            i for i in wrong.graph.initializer if i.name == f"{layer}input_layernorm.weight"
        ):
            weight = numpy_helper.to_array(norm, base_dir=str(tmp_path))
            norm.CopyFrom(numpy_helper.from_array(weight * 1.1, norm.name))
        onnx.save(wrong, tmp_path / "wrong.onnx")
        with pytest.raises(ParityError, match="decoder: hidden differs"):
            check(part, tmp_path / "wrong.onnx", "use")


def test_slices_draw_and_answer_the_same(
    checkpoint: Checkpoint, session: Session, tmp_path: Path
) -> None:
    export_bundle(
        checkpoint, tmp_path / "b", max_length=96, report=lambda line: None, upcast_at_use=0
    )
    bundle = open_bundle(tmp_path / "b")
    assert bundle.manifest.components["decoder"].upcast == "use"
    assert bundle.manifest.components["text_head"].data is not None
    request = ImageRequest(prompt="a star", seed=4)
    drawn = [
        next(e for e in s.generate_image(request) if isinstance(e, Image))
        for s in (session, Session(bundle, num_threads=1))
    ]
    assert np.array_equal(drawn[0].codes, drawn[1].codes)
    data = tmp_path / "b" / "decoder.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"decoder\.data: damaged"):
        open_bundle(tmp_path / "b")


def test_relative_error() -> None:
    reference = np.array([1.0, -4.0], np.float32)
    assert relative_error(reference, reference) == 0
    assert relative_error(reference + np.float32(0.04), reference) == pytest.approx(0.01, rel=1e-3)
    assert relative_error(reference[:1], reference) == np.inf
    assert relative_error(reference * np.nan, reference) == np.inf


def test_code_error() -> None:
    distances = np.array([[[0.0, 2.0, 1e-7], [4.0, 1.0, 3.0]]], np.float32)
    assert code_error(np.array([[0, 1]]), distances) == 0
    assert code_error(np.array([[2, 1]]), distances) < 1e-6  # equally near
    assert code_error(np.array([[1, 1]]), distances) == pytest.approx(0.5)
    assert code_error(np.array([[0]]), distances) == np.inf


def test_steps_after_a_prefill_equal_one_pass(checkpoint: Checkpoint, bundle_dir: Path) -> None:
    """Through the exported decoder. Chunks after the first are for one row only: ONNX Runtime's
    GroupQueryAttention takes several new positions on a filled cache for a batch of one."""
    config = checkpoint.model.config.language
    engine = load_graph(bundle_dir / "decoder.onnx", 1)
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
    proto = component(checkpoint, "image_head").build(None)
    before = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    assert store_halves(proto) == "float16"
    kept = 0
    for initializer in proto.graph.initializer:
        array, name = numpy_helper.to_array(initializer), initializer.name.removesuffix(".half")
        assert np.array_equal(array.astype(np.float32), before[name].astype(np.float32))
        kept += array.dtype == np.float16
    assert kept
    bf16 = torch.randn(9, 9, generator=torch.Generator().manual_seed(0)).bfloat16() * 1e-3
    half = halve(bf16.float().numpy())
    assert half is not None and np.abs(half - bf16.float().numpy()).max() <= LARGEST_ERROR
    for value in (1e5, np.inf, np.nan, 1 / 3):
        assert halve(np.array([value], np.float32)) is None
    odd = np.full((20, 20), 1 / 3, np.float32)
    body = onnx.helper.make_graph([], "g", [], [], [numpy_helper.from_array(odd, "w")])
    other = onnx.helper.make_model(body)
    assert store_halves(other) == "float32"
    assert np.array_equal(numpy_helper.to_array(other.graph.initializer[0]), odd)


def test_every_component_declares_what_it_takes(bundle_dir: Path) -> None:
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

    monkeypatch.setattr(parity, "TOLERANCE", -1.0)
    with pytest.raises(ParityError):
        writer.export_bundle(checkpoint, tmp_path / "b", max_length=96, report=lambda line: None)
    assert list(tmp_path.iterdir()) == []
