"""Engines of TensorRT-RTX for every component of both small models, built without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from janus_edge.export.graph.decoder import decoder_components
from janus_edge.export.graph.parity import ParityError
from janus_edge.export.quantization.presets import PRESETS, for_tensorrt
from janus_edge.export.tensorrt import engines as tensorrt_engines
from janus_edge.export.tensorrt import network as network_of
from janus_edge.export.tensorrt.engines import Plan, build_engine
from janus_edge.export.tensorrt.network import check_network
from janus_edge.kernels.compile import TARGETS
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime.backends import tensorrt_library
from janus_edge.runtime.backends.tensorrt_library import find_library, import_library
from janus_edge.runtime.bundle import Bundle, open_bundle
from janus_edge.runtime.errors import DeviceError, OptionError
from janus_edge.runtime.manifest import COMPONENTS
from janus_edge.runtime.session import Session
from tests.export.test_half import known

CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"
TABLES = {"text_embed", "code_embed", "preview"}
KERNELS = {"janus": {"sample", "look_up"}, "janusflow": {"flow_update"}}


def _export(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: where kernels are interpreted they do not compile."""
    kept = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "janus_edge", "export", *map(str, words)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=kept)


@pytest.fixture(
    scope="module",
    params=["tiny-janus", pytest.param("tiny-flow", marks=pytest.mark.slow)],
)
def engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that ships, as engines of 4-bit weights."""
    folder = tmp_path_factory.mktemp("engines") / request.param
    done = _export(
        CHECKPOINTS / request.param, folder, "--backend", "tensorrt", "--quantize", "int4"
    )
    assert done.returncode == 0, done.stderr
    return open_bundle(folder, check_all=True)


def test_every_component_is_an_engine(engines: Bundle) -> None:
    """What was parsed has been compared with the graph on the way (``check_network``)."""
    manifest, trt = engines.manifest, find_library()
    assert set(manifest.components) == set(COMPONENTS[manifest.family])
    for name, part in manifest.components.items():
        if name in TABLES:
            continue
        assert (part.backend, part.target, part.dtype) == ("tensorrt", "any", "float16")
        assert part.builder is not None and part.builder.version == trt.__version__
        assert engines.num_bytes(name) > 1000
        for ranges in part.profiles.values():
            named = {dim for given in part.inputs for dim in given.shape if isinstance(dim, str)}
            assert named <= set(ranges)
    assert not list(engines.folder.glob("*.onnx"))
    decoder = manifest.components["decoder"]
    assert (decoder.weights, decoder.quantization) == ("int4", "blocks of 64")  # 64 divides 704
    assert list(decoder.profiles) == ["prefill", "step"]
    assert decoder.profiles["step"]["T"] == (1, 1, 1)
    assert manifest.cache_type == "float16" and manifest.cache_slots == manifest.sizes.max_length


def test_it_has_the_kernels_of_its_loop(engines: Bundle) -> None:
    found = {(kernel.name, kernel.target) for kernel in engines.manifest.kernels}
    names = KERNELS[engines.manifest.family]
    assert found == {(name, f"sm_{target}") for name in names for target in TARGETS}


def test_without_a_gpu_it_says_so(engines: Bundle) -> None:
    with pytest.raises(DeviceError, match=r"on cuda:0: no NVIDIA driver here; install one, or"):
        Session(engines, device="cuda")


@pytest.mark.slow
def test_the_decoder_of_janus_pro_1b(tmp_path: Path) -> None:
    """Four bits, full size, random weights: 8 GB of memory and a quarter of an hour."""
    checkpoint, folder = tmp_path / "janus-pro-1b", tmp_path / "engines"
    made = [sys.executable, "tools/make_checkpoint.py", "janus-pro-1b", str(checkpoint)]
    subprocess.run(made, check=True, cwd=CHECKPOINTS.parent)
    done = _export(checkpoint, folder, "--backend", "tensorrt", "--quantize", "int4")
    assert done.returncode == 0, done.stderr
    bundle = open_bundle(folder, check_all=True)
    assert 600e6 < bundle.num_bytes("decoder") < 800e6
    assert bundle.manifest.components["decoder"].quantization == "blocks of 128"


@pytest.fixture(scope="module")
def decoder(checkpoint: Checkpoint) -> Any:
    """The random model's, as a component."""
    sizes = checkpoint.model.config.language
    preset = for_tensorrt(PRESETS["int4"], (sizes.hidden_size, sizes.intermediate_size))
    return decoder_components(checkpoint, 64, preset)[0]


@pytest.fixture
def halved(decoder: Any, tmp_path: Path) -> onnx.ModelProto:
    """Its graph as TensorRT gets it."""
    path = tmp_path / "decoder.onnx"
    onnx.save(decoder.build(None), path)
    proto, *_ = tensorrt_engines._to_half_precision(decoder, path, "float16", known(decoder))
    tensorrt_engines._fix(proto, "M", 64)
    return proto


def _parsed(proto: onnx.ModelProto, path: Path) -> tuple[Any, Any]:
    trt = find_library()
    logger = tensorrt_library.make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    onnx.save(proto, path)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path)), logger.errors
    return trt, (network, builder, parser, logger)


def test_attention_is_limited_to_what_is_filled(halved: onnx.ModelProto, tmp_path: Path) -> None:
    """Lengths beside the mask for every attention on caches; several kernels only for heads of 16,
    which have no single one."""
    trt, (network, *_kept) = _parsed(halved, tmp_path / "right.onnx")
    network_of.limit_attention(trt, network)
    found = network_of.attentions(trt, network)
    assert len(found) == 2 and all(each.decomposable for each in found)
    for each in found:
        assert each.mask is not None
        lengths = each.key_value_lengths
        assert lengths.dtype == trt.int32 and len(lengths.shape) == 1
    assert 128 in network_of.FUSED_HEADS and 64 in network_of.FUSED_HEADS  # the published models'


def test_what_was_parsed_is_compared(halved: onnx.ModelProto, tmp_path: Path) -> None:
    """A mask that goes missing, another input, a cache that is not updated in place."""
    trt, (network, *_kept) = _parsed(halved, tmp_path / "right.onnx")
    check_network(trt, network, halved)
    without = onnx.ModelProto()
    without.CopyFrom(halved)
    for node in without.graph.node:
        if node.op_type == "Attention":
            del node.input[3:]
    trt, (network, *_kept) = _parsed(without, tmp_path / "without.onnx")
    with pytest.raises(ParityError, match="has 0 of 2 masks"):
        check_network(trt, network, halved)
    other = onnx.ModelProto()
    other.CopyFrom(halved)
    other.graph.input[0].type.tensor_type.shape.dim[2].dim_value += 1
    with pytest.raises(ParityError, match="embeds: tensorrt_rtx has parsed it as another input"):
        check_network(trt, network, other)
    extra = onnx.ModelProto()
    extra.CopyFrom(halved)
    extra.graph.node.append(next(n for n in halved.graph.node if n.op_type == "TensorScatter"))
    with pytest.raises(ParityError, match="has 4 of 5 TensorScatter"):
        check_network(trt, network, extra)


def test_an_engine_for_one_gpu(decoder: Any, halved: onnx.ModelProto, tmp_path: Path) -> None:
    trt, path = find_library(), tmp_path / "decoder.onnx"
    onnx.save(halved, path)
    sizes = {
        target: build_engine(trt, path, halved, decoder.uses, Plan(target=target)).nbytes
        for target in (None, "sm_89")
    }
    assert sizes["sm_89"] != sizes[None] and min(sizes.values()) > 1000


def test_what_the_builder_refuses_is_one_line(
    halved: onnx.ModelProto, decoder: Any, tmp_path: Path
) -> None:
    path, wrong = tmp_path / "decoder.onnx", onnx.ModelProto()
    wrong.CopyFrom(halved)
    wrong.graph.node[-1].op_type = "Nonsense"
    onnx.save(wrong, path)
    with pytest.raises(
        ParityError, match=r"^decoder.onnx: tensorrt_rtx [\d.]+: .*not found"
    ) as found:
        build_engine(find_library(), path, wrong, decoder.uses, Plan())
    assert "\n" not in str(found.value)


def test_bfloat16(halved: onnx.ModelProto, decoder: Any, tmp_path: Path) -> None:
    path = tmp_path / "decoder.onnx"
    onnx.save(decoder.build(None), path)
    entry = {"weights": "int4", "quantization": "blocks of 32", "profile": decoder.profile}
    made, line = tensorrt_engines.write_engine(
        decoder, path, entry, Plan(precision="bfloat16"), known(decoder)
    )
    assert made["dtype"] == "bfloat16" and "bfloat16" in line
    types = {each["dtype"] for each in made["inputs"] if each["name"].startswith("past_")}
    assert types == {"bfloat16"} and not path.exists()


def test_plans_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="give one of float16, bfloat16"):
        Plan(precision="float32")
    with pytest.raises(
        OptionError, match=r"sm_87: tensorrt_rtx .* builds for sm_75, sm_80, .*others"
    ):
        Plan(target="sm_87")
    for wrong in ("87", "sm_", "sm_8x", "all"):
        with pytest.raises(OptionError, match="give a compute capability, as sm_89"):
            Plan(target=wrong)
    with pytest.raises(OptionError, match="no tensorrt here; run"):
        Plan(builder="tensorrt")
    with pytest.raises(OptionError, match="give one of tensorrt_rtx, tensorrt"):
        Plan(builder="trt")
    monkeypatch.setattr(tensorrt_engines, "find_library", lambda name: None)
    with pytest.raises(OptionError, match=r"no TensorRT here; run: pip install 'janus-edge\["):
        Plan()


def test_tensorrt_itself_builds_for_the_gpu_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module has no list of GPUs: any target is taken at its word, none is made portable."""

    class Config:
        hardware_compatibility_level = None

    class Levels:
        AMPERE_PLUS = "ampere and later"

    class Library:
        HardwareCompatibilityLevel = Levels

    config = Config()
    tensorrt_engines._aim(Library, config, "sm_87")
    assert config.hardware_compatibility_level is None
    tensorrt_engines._aim(Library, config, None)
    assert config.hardware_compatibility_level == "ampere and later"


def test_what_was_timed_is_kept_beside_the_bundle(tmp_path: Path) -> None:
    """By TensorRT itself, which is not here: on what stands for its configuration."""
    kept, taken = tmp_path / "b.cache/timings.bin", []

    class Timed:
        def __init__(self, content: bytes) -> None:
            self.content = content

        def serialize(self) -> bytes:
            return self.content + b"more"

    class Config:
        def create_timing_cache(self, content: bytes) -> Timed:
            return Timed(content)

        def set_timing_cache(self, cache: Timed, ignore_mismatch: bool) -> bool:
            taken.append((cache.content, ignore_mismatch))
            return True

    for _ in range(2):  # the second reads what the first has written
        tensorrt_engines._keep(tensorrt_engines._timings(Config(), kept), kept)
    assert taken == [(b"", True), (b"more", True)] and kept.read_bytes() == b"moremore"
    assert tensorrt_engines._timings(Config(), None) is None


def test_a_module_without_its_libraries_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise OSError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(tensorrt_library, "import_module", broken)
    assert import_library("tensorrt") is None and find_library() is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--precision", "bfloat16"], "is of engines; add --backend tensorrt"),
        (["--backend", "tensorrt", "--precision", "half"], "give one of float16, bfloat16"),
        (["--backend", "tensorrt", "--kv-cache", "int8"], "leave out --kv-cache"),
        (["--backend", "tensorrt", "--prefill", "int8"], "leave out --prefill"),
        (["--backend", "tensorrt", "--lowering", "portable"], "leave out --lowering"),
    ],
)
def test_options_that_do_not_go_together(words: list[str], says: str, tmp_path: Path) -> None:
    done = _export(CHECKPOINTS / "tiny-janus", tmp_path / "b", *words)
    assert done.returncode != 0 and says in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "b").exists()


def test_the_manifest_is_json_as_it_was_written(engines: Bundle) -> None:
    raw = json.loads((engines.folder / "manifest.json").read_text(encoding="utf-8"))
    assert raw["components"]["decoder"]["profiles"]["prefill"]["M"] == [256, 256, 256]
