"""A bundle whose decoder and heads our kernels compute, on a fake GPU (fake_cuda.py)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from janus_edge.bench.programs.kernels import cubins, step, tune
from janus_edge.export.bundle.gpu_kernels import check_kernels, gpu_targets, kernels_of
from janus_edge.export.bundle.writer import export_bundle
from janus_edge.export.quantization.presets import preset_of
from janus_edge.kernels.spec import Shape
from janus_edge.kernels.tuning import tuned
from janus_edge.model.janus import Janus
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime.backends import cuda_decoder, cuda_passes
from janus_edge.runtime.backends.cubins import Gpu
from janus_edge.runtime.bundle import Bundle
from janus_edge.runtime.cuda import Cuda
from janus_edge.runtime.devices import choose
from janus_edge.runtime.errors import BundleError, DeviceError, DeviceWarning, OptionError
from janus_edge.runtime.events import Finished, Progress, Text
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session
from janus_edge.runtime.sizes import CodeSizes
from tests.bench.test_tune import CODE
from tests.runtime import fake_cuda
from tests.runtime.fake_decoder import interpreted
from tests.runtime.fake_machine import (
    PROMPTS,
    Machine,
    drawn,
    export_with_kernels,
    results,
    small_checkpoint,
    small_flow_checkpoint,
)


@pytest.fixture(scope="module")
def small() -> Checkpoint:
    return small_checkpoint()


@pytest.fixture(scope="module")
def bundle(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_with_kernels(small, tmp_path_factory.mktemp("kernels") / "small")


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_with_kernels(small_flow_checkpoint(), tmp_path_factory.mktemp("flow") / "small")


@pytest.fixture
def gpu(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch, bundle)


def test_hidden_states_are_those_of_the_cpu(gpu: Machine) -> None:
    """Prompts of unequal length over several passes and chunks, then steps."""
    made = np.random.default_rng(3)
    prompt = made.standard_normal((3, 133, 256), np.float32)
    steps = [made.standard_normal((3, 256), np.float32) for _ in range(3)]
    ahead, gaps = made.standard_normal((3, 6, 256), np.float32), np.array([0, 1, 5, 6, 9, 10])
    found = []
    for device in ("cuda", "cpu"):
        engines = Session(gpu.bundle, device=device)._engines
        decoder = engines.open_decoder(3, 160)
        states = [decoder.prefill(prompt, np.array([133, 128, 5])).copy()]
        states += [decoder.step(each).copy() for each in steps]
        positions = np.array([136, 131, 8])[:, None] + gaps
        states += list(decoder.look_ahead(ahead, positions).copy().swapaxes(0, 1))
        hidden = np.stack(states)
        logits = [engines.head(name)(hidden[-1]).copy() for name in ("image_head", "text_head")]
        found.append((hidden, *logits))
    for ours, other in zip(*found, strict=True):  # the CPU rounds what products take to 8 bits
        assert np.abs(ours - other).max() < 0.03 * np.abs(other).max()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there kernels run on the device")
def test_launches_give_kernels_what_they_take(
    flow: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels themselves, in Triton's interpreter: many positions, several, then a step."""
    gpu = Machine(monkeypatch, flow)
    made = np.random.default_rng(4)
    shapes = (2, 18, 256), (2, 3, 256), (2, 256)
    prompt, ahead, step = (made.standard_normal(shape, np.float32) for shape in shapes)
    specs = kernels_of(small_flow_checkpoint().model, decoder=True)
    found = []
    for kernels in ({f"{each.name}_kernel": interpreted(tuned(each, 89)) for each in specs}, {}):
        gpu.driver.kernels = kernels
        engines = gpu.session()._engines
        decoder = engines.open_decoder(2, 160)
        first = decoder.prefill(prompt, np.array([18, 17])).copy()
        several = decoder.look_ahead(ahead).copy()
        hidden = decoder.step(step).copy()
        alone = engines.open_decoder(1, 160).prefill(prompt[1:, :17], np.array([17]))
        assert np.array_equal(alone[0], first[1])  # whatever the others of its batch are
        found.append((first, several, hidden, engines.head("text_head")(hidden).copy()))
    for ours, reference in zip(*found, strict=True):
        assert np.abs(ours - reference).max() < 2e-3 * np.abs(reference).max()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there kernels run on the device")
def test_launches_of_the_image_head(gpu: Machine, small: Checkpoint) -> None:
    hidden = np.random.default_rng(5).standard_normal((2, 256), np.float32)
    specs = [each for each in kernels_of(small.model, decoder=True) if "head" in each.name]
    found = []
    for kernels in ({f"{each.name}_kernel": interpreted(tuned(each, 89)) for each in specs}, {}):
        gpu.driver.kernels = fake_cuda.KERNELS | kernels
        found.append(gpu.session()._engines.head("image_head")(hidden).copy())
    assert np.abs(found[0] - found[1]).max() < 2e-3 * np.abs(found[1]).max()


def test_longer_prompts_take_several_passes(gpu: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the hidden states of one pass; so do more drafts than a pass has."""
    made = np.random.default_rng(6)
    prompt, ahead = (made.standard_normal((2, time, 256), np.float32) for time in (70, 40))
    found = []
    for most in (640, 32, 20):
        for module in (cuda_decoder, cuda_passes):
            monkeypatch.setattr(module, "MOST_MANY", most)
        decoder = gpu.session()._engines.open_decoder(2, 160)
        first = decoder.prefill(prompt, np.array([70, 33])).copy()
        found.append((first, decoder.look_ahead(ahead).copy()))
    for one, *others in zip(*found, strict=True):
        for each in others:
            assert np.abs(each - one).max() < 1e-5 * np.abs(one).max()


@pytest.mark.parametrize("more", [{}, {"guidance_scale": 1.0}, {"num_images": 5}])
def test_the_loops_agree(
    gpu: Machine, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with more rows than a pass has."""
    request = ImageRequest(prompt=PROMPTS.prompt, seed=5, **more)
    found = results(drawn(gpu.session(), request))
    monkeypatch.setattr("janus_edge.runtime.engines.Engines.loops_on_gpu", False)
    assert np.array_equal(found, results(drawn(gpu.session(), request)))


@pytest.mark.parametrize("width", [2, 3, 8, 16, 20])
@pytest.mark.parametrize("more", [{}, {"guidance_scale": 1.0}, {"num_images": 3}])
def test_passes_draw_what_steps_draw(gpu: Machine, width: int, more: dict[str, Any]) -> None:
    """With fewer launches; also where a pass has more rows than a tile."""
    request = ImageRequest(prompt=PROMPTS.prompt, seed=5, **more)
    found = results(drawn(gpu.session(), request))
    earlier = len(gpu.driver.calls)
    events = drawn(gpu.session(), dataclasses.replace(request, parallel=width))
    assert np.array_equal(found, results(events))
    assert gpu.driver.names()[earlier:].count("cuGraphLaunch") > 0
    sizes = gpu.bundle.manifest.sizes
    assert isinstance(sizes, CodeSizes)
    passes = next(event for event in events if isinstance(event, Finished)).passes
    assert {each.width for each in passes} == {width}
    assert sum(each.codes for each in passes) == len(found) * (sizes.num_codes - 1)


def test_passes_stop_at_the_last_position(gpu: Machine) -> None:
    """They are then narrower than asked for."""
    session, sizes = gpu.session(), gpu.bundle.manifest.sizes
    assert isinstance(sizes, CodeSizes)
    encode, words = gpu.bundle.encoder.generation, "star"
    while len(encode(f"{words} star")) + sizes.num_codes <= sizes.max_length:
        words += " star"
    left = sizes.max_length - sizes.num_codes - len(encode(words))
    requests = (ImageRequest(prompt=words, seed=2, parallel=width) for width in (1, 64))
    steps, events = (drawn(session, request) for request in requests)
    assert np.array_equal(results(steps), results(events))
    passes = next(event for event in events if isinstance(event, Finished)).passes
    assert {each.width for each in passes} == ({left + 1} if left else set())


def test_a_step_is_one_launch_of_eight_kernels_a_layer(gpu: Machine) -> None:
    events = drawn(gpu.session(), ImageRequest(prompt="a star"))
    names = gpu.driver.names()
    steps = sum(isinstance(event, Progress) for event in events)
    assert names.count("cuGraphLaunch") == steps - 2
    captured = Counter(
        names[names.index("cuStreamBeginCapture") : names.index("cuStreamEndCapture")]
    )
    assert captured["cuLaunchKernel"] == 8 * 2 + 1 + 2 + 2  # layers, norm, head, sampler, look-up


def test_kernels_overlap_where_the_gpu_can(gpu: Machine) -> None:
    """All but the first of a pass, and of a head's products; codes stay the same."""
    request = ImageRequest(prompt="a star")
    before = results(drawn(gpu.session(), request))
    assert "cuLaunchKernelEx" not in gpu.driver.names()
    gpu.driver.capability, earlier = 120, len(gpu.driver.calls)
    assert np.array_equal(results(drawn(gpu.session(), request)), before)
    names = gpu.driver.names()[earlier:]
    start, end = names.index("cuStreamBeginCapture"), names.index("cuStreamEndCapture")
    captured = Counter(names[start:end])
    assert captured["cuLaunchKernelEx"] == 8 * 2 + 1 - 1 + 1 and captured["cuLaunchKernel"] == 4


def test_rows_that_overlap(gpu: Machine) -> None:
    """A window as wide as a row is raster order; a narrower one draws another image."""
    sizes = gpu.bundle.manifest.sizes
    assert isinstance(sizes, CodeSizes)
    request = ImageRequest(prompt="a star", seed=1)
    in_order = results(drawn(gpu.session(), request))
    with pytest.warns(DeviceWarning, match="cuda:0 waits for the host at each pass"):
        whole, narrow = (
            results(drawn(gpu.session(), dataclasses.replace(request, window=window)))
            for window in (sizes.code_grid, 1)
        )
    assert np.array_equal(in_order, whole) and not np.array_equal(in_order, narrow)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_flow_is_the_cpus(flow: Bundle, monkeypatch: pytest.MonkeyPatch, solver: str) -> None:
    """The decoder on the GPU, the rest on the CPU."""
    machine = Machine(monkeypatch, flow)
    request = ImageRequest(prompt="a star", seed=3, num_steps=4, solver=solver)
    on_gpu, on_cpu = (
        results(drawn(Session(flow, device=device), request)) for device in ("cuda", "cpu")
    )
    assert "cuLaunchKernel" in machine.driver.names()
    assert np.abs(on_gpu - on_cpu).max() < 0.05 * np.abs(on_cpu).max()


def test_a_flow_has_the_kernels_of_its_decoder_alone(flow: Bundle) -> None:
    names = {each.name for each in flow.manifest.kernels}
    assert {"attend_many", "text_logits"} <= names
    assert not {"flow_update", "head_logits", "take", "sample"} & names


@pytest.mark.parametrize(
    ("part", "key", "size", "says"),
    [
        ("gen_head", "image_token_embed", 96, "image head of 96"),
        ("language", "intermediate_size", 32, "MLP of 32"),
        ("language", "num_attention_heads", 128, "head of 2 "),
    ],
)
def test_models_that_do_not_fit(
    small: Checkpoint, part: str, key: str, size: int, says: str
) -> None:
    config = small.model.config
    changed = {part: dataclasses.replace(getattr(config, part), **{key: size})}
    with torch.device("meta"):
        model = Janus(dataclasses.replace(config, **changed))
    with pytest.raises(OptionError, match=says):
        check_kernels(dataclasses.replace(small, model=model), preset_of("int4"), (89,))


def test_gpus_that_kernels_are_compiled_for(small: Checkpoint) -> None:
    """TensorRT takes others, too."""
    assert gpu_targets("sm_75") == (75,) and 89 in gpu_targets(None)
    with pytest.raises(OptionError, match='target is "89"'):
        gpu_targets("89")
    with pytest.raises(OptionError, match="no kernels for sm_75; give one of sm_80"):
        check_kernels(small, preset_of("int4"), (75,))


def test_it_answers_and_keeps_keys_on_the_device(gpu: Machine) -> None:
    request = AskRequest(question="how many circles are there?", max_tokens=6)
    said = [
        "".join(e.text for e in gpu.session().ask(request) if isinstance(e, Text)) for _ in "ab"
    ]
    assert said[0] == said[1]


def test_auto_takes_the_gpu_where_there_is_one(gpu: Machine) -> None:
    assert str(Session(gpu.bundle).device) == "cuda:0"
    gpu.driver.count = 0
    assert str(Session(gpu.bundle).device) == "cpu"


def test_a_gpu_without_kernels_is_named(gpu: Machine) -> None:
    gpu.driver.capability = 75
    with pytest.raises(DeviceError, match=r"for sm_120, sm_80, sm_89, not for .*sm_75"):
        Session(gpu.bundle, device="cuda")
    assert str(Session(gpu.bundle).device) == "cpu"


def test_too_little_memory_is_one_line(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Machine(monkeypatch, bundle, total=2**20).session()
    with pytest.raises(DeviceError, match=r"out of memory: .* MB for the decoder needed, .* free"):
        drawn(session, ImageRequest(prompt="a star"))


def test_a_changed_cubin_is_refused(gpu: Machine) -> None:
    session = gpu.session()
    path = gpu.bundle.folder / "qkv.sm_89.cubin"
    before = path.read_bytes()
    path.write_bytes(before + b"!")
    try:
        with pytest.raises(BundleError, match="is another file since the bundle was opened"):
            drawn(session, ImageRequest(prompt="a star"))
    finally:
        path.write_bytes(before)


def test_kernels_of_other_sizes_are_refused(gpu: Machine) -> None:
    for each in gpu.bundle.manifest.kernels:
        if each.name == "down":
            each.constants["INPUTS"] = 512
    try:
        with pytest.raises(BundleError, match="compiled for INPUTS 512, not 384"):
            drawn(gpu.session(), ImageRequest(prompt="a star"))
    finally:
        for each in gpu.bundle.manifest.kernels:
            if each.name == "down":
                each.constants["INPUTS"] = 384


@pytest.mark.parametrize(("name", "key"), [("qkv", "BLOCK"), ("attend_many", "ROWS")])
@pytest.mark.parametrize("size", [0, -1, 2**40])
def test_constants_that_no_kernel_has(
    gpu: Machine, monkeypatch: pytest.MonkeyPatch, name: str, key: str, size: int
) -> None:
    for each in gpu.bundle.manifest.kernels:
        if each.name == name:
            monkeypatch.setitem(each.constants, key, size)
    with pytest.raises(BundleError, match=f"{key} is {size}; export the bundle again"):
        drawn(gpu.session(), ImageRequest(prompt="a star"))


def test_kernels_of_an_earlier_version(gpu: Machine) -> None:
    manifest = gpu.bundle.manifest
    kept = tuple(each for each in manifest.kernels if not each.name.endswith("_many"))
    earlier = manifest.model_copy(update={"kernels": kept})
    with pytest.raises(DeviceError, match="an earlier version; export it again"):
        choose(earlier, "cuda")
    assert str(choose(earlier, "auto")) == "cpu"


def test_memory_goes_back(gpu: Machine) -> None:
    session, before = gpu.session(), len(gpu.driver.calls)
    drawn(session, ImageRequest(prompt="a star"))
    loaded = [words[0] for name, words in gpu.driver.calls[before:] if name == "cuModuleLoadData"]
    assert len(set(loaded)) == len(loaded) > 9  # what several components launch is loaded once
    held = gpu.driver.held()
    drawn(session, ImageRequest(prompt="a star", seed=3))
    assert gpu.driver.held() <= held
    del session
    assert gpu.driver.held() == 0 and not gpu.driver.modules


def test_the_benchmark_counts_what_a_step_reads(
    gpu: Machine, small: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cubins, "COPIED", 2**12)
    sizes = gpu.bundle.manifest.sizes
    assert isinstance(sizes, CodeSizes)
    cuda = Cuda(driver=gpu.driver)
    kernels = step.Listing(cuda, gpu.bundle.folder, gpu.bundle.manifest.kernels)
    shape = Shape(
        num_codes=sizes.codebook_size,
        width=256,
        inner=320,
        heads=4,
        shared=2,
        head_dim=64,
        head_hidden=128,
    )
    specs = kernels_of(small.model, decoder=True)
    found = step.measured(Gpu(cuda, kernels), kernels, sizes, shape, specs)
    rows = {row["kernel"]: row for row in found["kernels"]}
    assert {name: row["launches"] for name, row in rows.items()} == {
        **dict.fromkeys(("qkv", "attend", "merge", "output", "gate_up", "down"), 2),
        "norm": 4,
        **dict.fromkeys(("last_norm", "head_hidden", "head_logits"), 1),
    }
    outputs = (4 + 2 * 2) * 64
    assert rows["qkv"]["mb_read"] == round(2 * outputs * (256 / 2 + 256 / 128 * 4) / 1e6, 3)
    kept = 2 * 2 * (2 * 2 * 64 * 2) * found["filled"]  # rows, layers, keys and values of two heads
    assert rows["attend"]["mb_read"] == round(kept / 1e6, 3)
    assert found["codes"]["codes"] == sizes.num_codes
    assert found["many"]["positions"] == 159 and found["many"]["tflop_s"] > 0
    assert len(list(step.lines(found))) == len(rows) + 4


def test_tuning_times_each_product(gpu: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches of the right number of programs, with what the kernels take."""
    small = {"width": 256, "inner": 320, "heads": 4, "shared": 2, "head_dim": 64}
    codes = gpu.driver.codebook_size
    monkeypatch.setattr(tune, "SHAPE", Shape(num_codes=codes, head_hidden=128, **small))
    monkeypatch.setattr(tune, "_KEPT", 2**16)
    cuda = Cuda(driver=gpu.driver)
    entries = {
        each.name: each.model_dump()
        for each in gpu.bundle.manifest.kernels
        if each.target == "sm_89"
    }
    products = [each for each in tune.products() if each.spec.name != "text_logits"]
    for product in products:
        made = tune.Compiled(
            entry=entries[product.spec.name], needs=CODE, stages=3, folder=gpu.bundle.folder
        )
        assert tune._measured_us(cuda, product, made) > 0
    launched = Counter(gpu.driver.names())["cuGraphLaunch"]
    assert launched == len(products) * (cubins.REPLAYS + 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are not interpreted")
def test_interpreted_kernels_are_refused_before_any_work(small: Checkpoint, tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(OptionError, match="TRITON_INTERPRET is set, and no kernel compiles"):
        export_bundle(
            small,
            tmp_path / "b",
            max_length=160,
            quantize="int4",
            kernels=(80,),
            report=said.append,
        )
    assert said == [] and list(tmp_path.iterdir()) == []
