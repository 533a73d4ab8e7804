"""The loops on a GPU draw what the CPU's draw, with the calls that they should make: on a fake one
(fake_cuda.py). Nothing here says that a real one does the same."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from janus_edge.runtime import cuda as cudas
from janus_edge.runtime import devices
from janus_edge.runtime.bundle import Bundle, open_bundle
from janus_edge.runtime.decode import Settings
from janus_edge.runtime.device_codes import upload_settings
from janus_edge.runtime.errors import BundleError, DeviceError, DeviceWarning, OptionError
from janus_edge.runtime.events import Finished, Preview, Progress, Text
from janus_edge.runtime.requests import AskRequest, ImageRequest
from tests.runtime.fake_cuda import CUresult
from tests.runtime.fake_machine import PROMPTS, Machine, drawn, results
from tests.runtime.fake_tensorrt import FakeTensorRT


def _by_host(machine: Machine, request: ImageRequest, patch: pytest.MonkeyPatch) -> np.ndarray:
    """The same engines, driven by the loops that every backend has."""
    with patch.context() as apart:
        apart.setattr("janus_edge.runtime.engines.Engines.loops_on_gpu", False)
        return results(drawn(machine.session(), request))


@pytest.mark.parametrize(
    "more", [{}, {"guidance_scale": 1.0}, {"num_images": 2}, {"reference": True}]
)
def test_it_draws_what_the_host_s_loop_draws(
    machine: Machine, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ImageRequest(prompt=PROMPTS.prompt, seed=5, **more)
    found, expected = (
        results(drawn(machine.session(), request)),
        _by_host(machine, request, monkeypatch),
    )
    if found.dtype.kind == "i":
        assert np.array_equal(found, expected)
    else:
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_step_is_one_launch(machine: Machine) -> None:
    """All memory first, then two steps sent one by one, one captured, all others launched; the host
    waits for nothing between the codes of a row."""
    events = drawn(machine.session(), ImageRequest(prompt="a star", guidance_scale=2.0))
    names, count = machine.driver.names(), Counter(machine.driver.names())
    steps = sum(isinstance(event, Progress) for event in events)
    flow = machine.bundle.manifest.family == "janusflow"
    assert count["cuGraphInstantiate"] == 1
    assert count["cuGraphLaunch"] == (steps - 1 if flow else steps - 2)
    first, last = names.index("cuGraphLaunch"), len(names) - 1 - names[::-1].index("cuGraphLaunch")
    captured = names[names.index("cuStreamBeginCapture") : names.index("cuStreamEndCapture")]
    assert not {"cuMemAlloc", "cuMemcpyHtoDAsync", "cuEventSynchronize"} & set(captured)
    between = Counter(names[first:last])
    assert not {"cuMemAlloc", "cuMemcpyHtoDAsync", "cuStreamSynchronize"} & set(between)
    grid = getattr(machine.bundle.manifest.sizes, "code_grid", 1)
    assert between["cuEventSynchronize"] <= steps // grid
    if not flow:  # look_up and sample, and nothing of the host's
        assert captured.count("cuLaunchKernel") == 2 and captured.count("cuMemcpyDtoDAsync") == 0


def test_the_guidance_interval_has_a_step_of_its_own(machine: Machine) -> None:
    if machine.bundle.manifest.family != "janusflow":
        pytest.skip("of a flow")
    request = ImageRequest(prompt="a star", num_steps=8, guidance_end=0.5, solver="ab2")
    drawn(machine.session(), request)
    rows = {
        context.shapes["embeds"][0]
        for context in machine.trt.contexts
        if "embeds" in context.shapes
    }
    assert rows == {1, 2} and machine.driver.names().count("cuGraphInstantiate") == 2


@pytest.mark.parametrize("solver", ["ab2", "heun"])
def test_other_solvers(machine: Machine, solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """AB2 uses the step before, across a change of guidance; Heun's steps run on the host."""
    if machine.bundle.manifest.family != "janusflow":
        pytest.skip("of a flow")
    request = ImageRequest(prompt="a star", num_steps=6, guidance_end=0.6, solver=solver)
    found = results(drawn(machine.session(), request))
    expected = _by_host(machine, request, monkeypatch)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert ("cuGraphLaunch" in machine.driver.names()) == (solver == "ab2")


def test_events_come_as_from_a_cpu(machine: Machine) -> None:
    request = ImageRequest(prompt=PROMPTS.prompt, previews=True)
    events = drawn(machine.session(), request)
    progress = [event for event in events if isinstance(event, Progress)]
    assert [event.done for event in progress] == sorted(event.done for event in progress)
    assert progress[-1].done == progress[-1].total
    assert any(isinstance(event, Preview) for event in events)
    (finished,) = (event for event in events if isinstance(event, Finished))
    assert len(finished.step_ends_ms) == len(progress)
    if machine.bundle.manifest.family == "janus":
        gaps = np.diff(finished.step_ends_ms)  # the device's clock, not when codes were read
        assert (gaps > 0).all()


def test_previews_show_each_step(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    request = ImageRequest(prompt="a star", previews=True, seed=2)
    found = [e.pixels for e in drawn(machine.session(), request) if isinstance(e, Preview)]
    with monkeypatch.context() as apart:
        apart.setattr("janus_edge.runtime.engines.Engines.loops_on_gpu", False)
        events = drawn(machine.session(), request)
    expected = [event.pixels for event in events if isinstance(event, Preview)]
    assert len(found) == len(expected) > 1
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def test_it_answers(machine: Machine) -> None:
    """Tokens are chosen on the host; keys and values stay where they are."""
    request = AskRequest(question="how many circles are there?", max_tokens=6, temperature=1.0)
    session = machine.session()
    first, second = (
        "".join(e.text for e in session.ask(request) if isinstance(e, Text)) for _ in range(2)
    )
    assert first == second
    caches = next(iter(machine.bundle.manifest.components["decoder"].profiles.values()))["M"][2]
    for name, arguments in machine.driver.calls:
        if name == "cuMemcpyHtoDAsync":
            assert arguments[2] < caches * 16 * 2 * 16  # no cache ever travels


def test_an_engine_that_cannot_be_captured_is_asked(machine: Machine) -> None:
    machine.trt.is_capturable = False
    session = machine.session()
    with pytest.warns(DeviceWarning, match="says that its work cannot be captured"):
        found = results(drawn(session, PROMPTS))
    assert "cuStreamBeginCapture" not in machine.driver.names()
    machine.trt.is_capturable = True
    assert np.array_equal(found, results(drawn(machine.session(), PROMPTS)))


def test_logits_that_are_no_numbers_are_one_line(machine: Machine) -> None:
    if machine.bundle.manifest.family != "janus":
        pytest.skip("of codes")
    machine.driver.is_unsound = True
    with pytest.raises(BundleError, match="logits that are NaN or beyond 1e30"):
        drawn(machine.session(), PROMPTS)


def test_a_kernel_of_other_sizes_is_refused(exported: Bundle, monkeypatch: Any) -> None:
    machine = Machine(monkeypatch, exported)
    key = "NUM_CODES" if exported.manifest.family == "janus" else "SIZE"
    for kernel in exported.manifest.kernels:
        monkeypatch.setitem(kernel.constants, key, 4097)
    with pytest.raises(BundleError, match=f"compiled for {key} 4097, not"):
        drawn(machine.session(), PROMPTS)


def test_an_image_needs_no_host_for_top_k(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if machine.bundle.manifest.family != "janus":
        pytest.skip("of codes")
    for more in ({"top_k": 5}, {"top_p": 0.7}, {"temperature": 0.0}):
        request = ImageRequest(prompt=PROMPTS.prompt, seed=1, **more)
        before = machine.driver.names().count("cuGraphLaunch")
        has_kernel = "top_p" not in more  # the kernel has no nucleus
        says = (
            nullcontext() if has_kernel else pytest.warns(DeviceWarning, match="waits for the host")
        )
        with says:
            found = results(drawn(machine.session(), request))
        assert np.array_equal(found, _by_host(machine, request, monkeypatch))
        launched = machine.driver.names().count("cuGraphLaunch") > before
        assert launched == has_kernel


def test_the_largest_top_k_is_sent() -> None:
    """A request allows one more than 32 bits hold."""
    sent: list[np.ndarray] = []

    class Gpu:
        def upload(self, to: object, values: np.ndarray) -> None:
            sent.append(values)

    settings = Settings(temperature=1.0, top_k=2**31)
    upload_settings(Gpu(), None, None, settings)  # type: ignore[arg-type]
    assert sent[1].tolist() == [2**31 - 1]


def test_out_of_memory_says_how_much(exported: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, exported, total=50_000)
    with pytest.raises(DeviceError, match=r"out of memory: \d+ MB.* needed, .* free; draw fewer"):
        drawn(machine.session(), PROMPTS)


@pytest.mark.parametrize(
    "function", ["cuGraphLaunch", "cuLaunchKernel", "cuEventSynchronize", "cuModuleLoadData"]
)
def test_a_failing_driver_is_one_line(machine: Machine, function: str) -> None:
    session = machine.session()
    machine.driver.failing[function] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(DeviceError) as raised:
        drawn(session, PROMPTS)
    text = f"cuda:0: {function}: CUDA_ERROR_ILLEGAL_ADDRESS: cuda error illegal address"
    assert str(raised.value) == text


def test_a_refusing_engine_is_one_line(machine: Machine) -> None:
    session = machine.session()
    machine.trt.refuse = lambda: "Error Code 1:\n no kernel"
    with pytest.raises(DeviceError, match=r"refuses its work: Error Code 1: no kernel \(\d+ of"):
        drawn(session, PROMPTS)


def test_without_a_capture_it_draws_the_same(machine: Machine) -> None:

    def refuse_in_capture() -> str:
        return "not in a capture" if machine.driver.is_capturing else ""

    expected = results(drawn(machine.session(), PROMPTS))
    machine.trt.refuse = refuse_in_capture
    session = machine.session()
    with pytest.warns(DeviceWarning, match="steps are sent bit by bit: .* not in a capture"):
        found = results(drawn(session, PROMPTS))
    assert np.array_equal(found, expected)
    machine.trt.refuse = lambda: ""
    assert np.array_equal(results(drawn(session, PROMPTS)), expected)


def test_another_gpu_or_version_says_how_to_rebuild(
    exported: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, exported, capability=75)
    with pytest.raises(DeviceError, match=r"sm_75\), only sm_120, sm_80, sm_89; .*--target sm_75"):
        drawn(machine.session(), PROMPTS)
    machine = Machine(monkeypatch, exported)
    machine.trt.__version__ = "0.1"
    with pytest.raises(DeviceError, match=r"built with tensorrt_rtx .*, here is 0\.1; export"):
        machine.session()
    monkeypatch.setattr(FakeTensorRT, "Runtime", lambda self, logger: _refusing(logger))
    machine = Machine(monkeypatch, exported)
    with pytest.raises(
        DeviceError, match=r"cannot open it on cuda:0 \(Fake RTX, sm_89\): wrong GPU;"
    ):
        drawn(machine.session(), PROMPTS)


def _refusing(logger: Any) -> Any:
    class Runtime:
        def deserialize_cuda_engine(self, raw: bytes) -> None:
            logger.log(1, "wrong GPU")

    return Runtime()


def test_kernels_of_the_same_generation_run(
    exported: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sm_80's code runs on 8.6, but not on Jetson's 8.7; sm_120's on 12.0 alone."""
    for capability in (86, 89):
        drawn(Machine(monkeypatch, exported, capability=capability).session(), PROMPTS)
    for capability in (87, 121):
        with pytest.raises(DeviceError, match=f"--target sm_{capability}"):
            drawn(Machine(monkeypatch, exported, capability=capability).session(), PROMPTS)
    machine = Machine(monkeypatch, exported, capability=120)
    drawn(machine.session(), PROMPTS)
    assert "cuFuncSetAttribute" in machine.driver.names()  # more than 48 KB of shared memory


def test_what_was_compiled_stays_beside_the_bundle(machine: Machine) -> None:
    session = machine.session()
    drawn(session, PROMPTS)
    del session
    beside = machine.bundle.folder.with_name(machine.bundle.folder.name + ".cache")
    files = sorted(path.name for path in beside.iterdir())
    version = machine.trt.__version__
    assert f"decoder-Fake-RTX-{version}.bin" in files
    open_bundle(machine.bundle.folder)  # which is as it was


def test_a_device_is_chosen_by_what_is_there(
    exported: Bundle, bundle_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        cudas, "import_driver", lambda: (_ for _ in ()).throw(DeviceError("no NVIDIA driver here"))
    )
    with pytest.raises(DeviceError, match="runs nowhere here: on cuda:0: no NVIDIA driver here"):
        devices.choose(exported.manifest, "auto")
    with pytest.raises(DeviceError, match=r"on cpu: its engines are TensorRT's"):
        devices.choose(exported.manifest, "cpu")
    graphs = open_bundle(bundle_dir).manifest
    assert devices.choose(graphs, "auto") == devices.Device("cpu")
    with pytest.raises(
        DeviceError, match=r"on cuda:0: no CUDAExecutionProvider .* install onnxruntime-gpu"
    ):
        devices.choose(graphs, "cuda")
    for wrong in ("gpu", "auto:1", "cuda:x", "CUDA", ""):
        with pytest.raises(OptionError, match="give auto, cpu, cuda"):
            devices.choose(graphs, wrong)
    Machine(monkeypatch, exported)
    assert str(devices.choose(exported.manifest, "auto")) == "cuda:0"
    with pytest.raises(DeviceError, match="cuda:3: there are 1 GPUs"):
        devices.choose(exported.manifest, "cuda:3")


def test_any_thread_may_use_a_session(machine: Machine) -> None:
    """One after the other: for CUDA a thread without a GPU of its own can do nothing."""
    session = machine.session()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: results(drawn(session, PROMPTS))).result()
    assert np.array_equal(found, results(drawn(session, PROMPTS)))


def test_memory_given_back_inside_a_capture_waits(machine: Machine) -> None:
    gpu = cudas.Cuda()
    array = gpu.array((4,), "float32")
    held = machine.driver.held()
    arrays = [array]
    del array
    gpu.capture(arrays.clear)
    assert machine.driver.held() < held
