from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from janus_edge.export.bundle.writer import export_bundle, export_folder
from janus_edge.export.graph import parity
from janus_edge.export.graph.builder import Graph, info, save_graph
from janus_edge.export.graph.component import relative_error
from janus_edge.export.graph.components import graph_components
from janus_edge.export.graph.lowering import LOWERINGS
from janus_edge.export.graph.parity import ParityError, measure_parity
from janus_edge.export.quantization import quantize
from janus_edge.export.quantization.convolutions import CONVOLUTIONS
from janus_edge.export.quantization.matmuls import quantize_matmuls
from janus_edge.export.quantization.presets import PRESETS, preset_of
from janus_edge.export.quantization.quantize import QuantSpec, fake_quantized, pack, unpack
from janus_edge.model.files import CheckpointError
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime.backends.onnxruntime import load_graph
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.events import Image, Text
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session

WHOLE = QuantSpec(bits=8)
ALL = [*(QuantSpec(bits=bits, block_size=size) for bits in (4, 8) for size in (32, 64, 128)), WHOLE]


@pytest.mark.parametrize("spec", ALL, ids=str)
def test_weights_come_back_within_a_step(spec: QuantSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "_AT_ONCE", 1000)  # several parts, the last one smaller
    monkeypatch.setitem(quantize._SHRINKS, 4, np.ones(1))
    weight = np.random.default_rng(0).standard_normal((13, 200), np.float32)
    weight[3] = 0
    levels, scales = pack(weight, spec)
    size = spec.block_size or 200
    num_blocks = -(-200 // size)
    assert levels.shape == (13, num_blocks, size * spec.bits // 8)
    assert scales.shape == (13, num_blocks) and levels.dtype == np.uint8
    back = unpack(levels, scales, spec, 200)
    step = np.abs(np.repeat(scales, size, axis=1))[:, :200]
    # half a step, but a whole one at the end that has one level less
    assert (np.abs(back - weight) <= step * 1.0001).all()
    assert np.mean(np.abs(back - weight) <= step * 0.5001) > 0.97
    assert (back[3] == 0).all()


def test_the_scale_is_searched_for() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 256), np.float32)
    spec = QuantSpec(bits=4, block_size=64)
    found = unpack(*pack(weight, spec), spec, 256)
    quantize_plainly = {4: np.ones(1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize, "_SHRINKS", quantize_plainly)
        plain = unpack(*pack(weight, spec), spec, 256)
    assert np.square(found - weight).sum() < 0.95 * np.square(plain - weight).sum()


@pytest.mark.parametrize("beside", [False, True], ids=["in the graph", "beside it"])
@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("spec", ALL, ids=str)
def test_the_engine_computes_what_is_stored(
    spec: QuantSpec, lowering: str, beside: bool, tmp_path: Path
) -> None:
    """ONNX Runtime's product of the packed weights is PyTorch's of the rounded ones."""
    torch.manual_seed(0)
    layer = nn.Linear(200, 48)
    graph = Graph(LOWERINGS[lowering], tmp_path / "linear.data" if beside else None, spec)
    graph.linear("x", "y", layer.weight, layer.bias)
    ends = [info("x", TensorProto.FLOAT, ["R", 200])], [info("y", TensorProto.FLOAT, ["R", 48])]
    save_graph(graph.model("linear", *ends), tmp_path / "linear.onnx")
    x = np.random.default_rng(0).standard_normal((5, 200), np.float32)
    (found,) = load_graph(tmp_path / "linear.onnx", 1).run({"x": x})
    before = layer.weight
    with fake_quantized(layer, spec), torch.no_grad():
        assert layer.weight is not before
        low = layer(torch.from_numpy(x)).numpy()
    assert layer.weight is before and not layer._forward_pre_hooks
    exact = layer(torch.from_numpy(x)).detach().numpy()
    assert relative_error(found, low) < 2e-3 < 2 * relative_error(low, exact)


def test_every_row_is_rounded_by_itself(tmp_path: Path) -> None:
    """A row a thousand times larger takes nothing from the others; one of zeros stays zero."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 48, bias=False)
    graph = Graph(LOWERINGS["onnxruntime"], None, WHOLE)
    graph.linear("x", "one", layer.weight)
    graph.linear("x", "two", layer.weight)
    size: list[str | int | None] = ["B", "R", 48]
    ends = (
        [info("x", TensorProto.FLOAT, ["B", "R", 64])],
        [info("one", 1, size), info("two", 1, size)],
    )
    proto = graph.model("linears", *ends)
    assert [node.op_type for node in proto.graph.node].count("QuantizeLinear") == 1
    save_graph(proto, tmp_path / "linears.onnx")
    x = np.random.default_rng(0).standard_normal((2, 3, 64), np.float32)
    x[0, 1], x[1, 2] = 1000 * x[0, 1], 0
    one, two = load_graph(tmp_path / "linears.onnx", 1).run({"x": x})
    exact = layer(torch.from_numpy(x)).detach().numpy()
    error = np.abs(one - exact).max(-1) / np.abs(exact).max(-1).clip(1e-9)
    assert one.shape == (2, 3, 48) and np.array_equal(one, two)
    assert error.max() < 0.02 and not one[1, 2].any()


@pytest.mark.parametrize("either", ["checkpoint", "flow_checkpoint"])
def test_traced_products_are_rounded(either: str, request: pytest.FixtureRequest) -> None:
    """All of a part's linear layers, and nothing else; the others keep theirs."""
    for part in graph_components(request.getfixturevalue(either), 96, PRESETS["int8"]):
        if part.name in ("decoder", "text_head", "image_head"):
            continue
        graph = part.build(None).graph
        weights = {w.name for w in graph.initializer if len(w.dims) == 2 and w.data_type == 1}
        exact = [n for n in graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in weights]
        integers = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
        if part.name in ("image_decoder", "image_encoder"):
            assert not integers
            is_rounded = (part.name, either) == ("image_decoder", "checkpoint")
            assert part.spec == (CONVOLUTIONS if is_rounded else None)
        else:
            assert part.spec == WHOLE and integers and not exact


def test_products_that_are_no_linear_layers_stay() -> None:
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["scaled"], alpha=0.5),
        helper.make_node("MatMul", ["w", "scaled"], ["y"]),
    ]
    ends = [info("x", TensorProto.FLOAT, ["R", 4])], [info("y", TensorProto.FLOAT, ["R", 4])]
    proto = helper.make_model(helper.make_graph(nodes, "g", *ends, [weight]))
    assert [
        n.op_type for n in quantize_matmuls(proto, WHOLE, LOWERINGS["onnxruntime"]).graph.node
    ] == ["Gemm", "MatMul"]


def test_wrong_levels_fail_the_export(checkpoint: Checkpoint, tmp_path: Path) -> None:
    part = next(
        c for c in graph_components(checkpoint, 96, PRESETS["int8"]) if c.name == "image_head"
    )
    proto, examples = part.build(None), part.examples()
    exact, low = part.references(examples), part.references(examples, fake_quantize=True)
    save_graph(proto, tmp_path / "right.onnx")
    assert measure_parity(part, tmp_path / "right.onnx", "load", examples, exact, low).error < 0.05
    (levels,) = [i for i in proto.graph.initializer if i.name == "projected.weight.quantized"]
    raw = bytearray(levels.raw_data)
    raw[::7] = bytes(len(raw[::7]))
    levels.raw_data = bytes(raw)
    save_graph(proto, tmp_path / "wrong.onnx")
    with pytest.raises(ParityError, match="image_head: logits differs"):
        measure_parity(part, tmp_path / "wrong.onnx", "load", examples, exact, low)


def test_pieces_of_a_rounded_graph_give_what_the_whole_gives(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = next(
        c for c in graph_components(checkpoint, 96, PRESETS["int4"]) if c.name == "decoder"
    )
    examples = whole.examples()
    exact, low = whole.references(examples), whole.references(examples, fake_quantize=True)
    save_graph(whole.build(tmp_path / "decoder.data"), tmp_path / "decoder.onnx")
    found = []
    for part in (whole, dataclasses.replace(whole, cuts=("layers.0",))):
        opened = []
        with monkeypatch.context() as patch:
            patch.setattr(
                parity,
                "load_graph",
                lambda *words, _to=opened, **options: (
                    _to.append(words) or load_graph(*words, **options)
                ),
            )
            found.append(
                measure_parity(part, tmp_path / "decoder.onnx", "load", examples, exact, low)
            )
        assert len(opened) == 1 + len(part.cuts)
    assert found[0] == pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize("preset", ["int8", "int4"])
def test_a_rounded_bundle_draws_and_answers(
    checkpoint: Checkpoint, tmp_path: Path, preset: str
) -> None:
    drawn = []
    for beside in (2**40, 0):  # weights in the graph, and in a file beside it
        folder = tmp_path / f"b{beside}"
        export_bundle(
            checkpoint,
            folder,
            max_length=96,
            quantize=preset,
            report=lambda line: None,
            upcast_at_use=beside,
        )
        bundle = open_bundle(folder)
        decoder = bundle.manifest.components["decoder"]
        assert (decoder.weights, decoder.upcast) == (preset, "load")
        assert decoder.quantization == f"blocks of {PRESETS[preset].decoder.block_size}"
        assert (decoder.data is None) == (beside > 0 and preset == "int8")
        assert bundle.manifest.components["image_head"].weights == "int8"
        seeing = bundle.manifest.components["vision_encoder"]
        assert (seeing.weights, seeing.quantization) == ("int8", "per-channel")
        session = Session(bundle, num_threads=1)
        events = session.generate_image(ImageRequest(prompt="a star", seed=4))
        drawn += [event.codes for event in events if isinstance(event, Image)]
        asked = session.ask(AskRequest(question="how many?", max_tokens=3))
        assert all(isinstance(event.text, str) for event in asked if isinstance(event, Text))
    assert np.array_equal(*drawn)


def test_halves_are_half_the_size_and_draw_nearly_the_same(
    checkpoint_dir: Path, tmp_path: Path
) -> None:
    drawn = []
    for preset in ("fp32", "fp16"):
        folder = tmp_path / preset
        export_folder(
            checkpoint_dir, folder, max_length=96, quantize=preset, report=lambda line: None
        )
        session = Session(open_bundle(folder), num_threads=1)
        events = session.generate_image(ImageRequest(prompt="a star", seed=4))
        (image,) = (event for event in events if isinstance(event, Image))
        drawn.append((session.bundle.manifest.components, image.codes))
    (exact, codes), (halves, rounded_codes) = drawn
    assert exact["code_embed"].weights == "float32"
    assert {part.weights for part in halves.values()} == {"float16"}
    table = (tmp_path / "fp16" / "code_embed.npy").stat().st_size
    assert table < 0.6 * (tmp_path / "fp32" / "code_embed.npy").stat().st_size
    assert codes is not None and rounded_codes is not None
    assert np.mean(codes == rounded_codes) > 0.5


@pytest.mark.parametrize(
    ("preset", "block_size", "words"),
    [
        ("int3", None, 'quantize is "int3"; give one of fp32, fp16, int8, int4, int4-int8'),
        ("int4", 48, "block_size is 48; give one of 32, 64, 128"),
        ("fp32", 64, "block_size means nothing to fp32"),
    ],
)
def test_what_there_is_not_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, preset: str, block_size: int | None, words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        export_bundle(
            checkpoint,
            tmp_path / "b",
            max_length=96,
            quantize=preset,
            block_size=block_size,
            report=lambda line: None,
        )
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("max_length", [0, -5, 20, 2**21])
def test_a_context_that_cannot_be_is_refused(
    checkpoint_dir: Path, tmp_path: Path, max_length: int
) -> None:
    with pytest.raises(OptionError, match=f"max_length (is )?{max_length}"):
        export_folder(
            checkpoint_dir, tmp_path / "b", max_length=max_length, report=lambda line: None
        )
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(("value", "preset"), [(np.nan, "fp32"), (1e5, "fp16")])
def test_a_table_that_is_not_finite_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, value: float, preset: str
) -> None:
    """A bundle of it would not open."""
    model = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        model.language_model.model.embed_tokens.weight[-1, 0] = value
    with pytest.raises(CheckpointError, match=r"text_embed: .* no finite number"):
        export_bundle(
            dataclasses.replace(checkpoint, model=model),
            tmp_path / "b",
            max_length=96,
            quantize=preset,
            report=lambda line: None,
        )
    assert not (tmp_path / "b").exists()


def test_heads_that_onnx_runtime_does_not_take_are_refused(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    model, config = copy.deepcopy(checkpoint.model), checkpoint.model.config
    language = dataclasses.replace(config.language, num_attention_heads=4, num_key_value_heads=4)
    model.config = dataclasses.replace(config, language=language)
    with pytest.raises(OptionError, match=r"a head has 12 channels.*--lowering portable"):
        export_bundle(
            dataclasses.replace(checkpoint, model=model),
            tmp_path / "b",
            max_length=96,
            report=lambda line: None,
        )


def test_a_block_size_is_the_decoders() -> None:
    preset = preset_of("int4", block_size=128)
    assert preset.decoder == QuantSpec(bits=4, block_size=128)
    assert preset.image_head == PRESETS["int4"].image_head


def test_another_type_of_cache_is_refused() -> None:
    with pytest.raises(OptionError, match='kv_cache is "int4"; give one of float32, int8'):
        preset_of("int4", cache="int4")
