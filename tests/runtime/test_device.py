"""The loops on a GPU draw what the CPU's draw, with the calls that they should make: on a fake one
(fake_cuda.py). Nothing here says that a real one does the same."""

from __future__ import annotations

import gc
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from janus_edge.export import bundle as bundles
from janus_edge.export import tensorrt as engines
from janus_edge.export.bundle import export_bundle
from janus_edge.export.tensorrt import Plan
from janus_edge.kernels.compile import specs_of
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime import cuda as cudas
from janus_edge.runtime import devices
from janus_edge.runtime.backends import tensorrt
from janus_edge.runtime.bundle import Bundle, file_sha256, open_bundle
from janus_edge.runtime.errors import BundleError, DeviceError, DeviceWarning, OptionError
from janus_edge.runtime.events import Finished, Image, Preview, Progress, Text
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session
from tests.runtime.fake_cuda import CUresult, FakeDriver
from tests.runtime.fake_tensorrt import FakeTensorRT

PROMPTS = ImageRequest(prompt=("a star", "three small red circles on white"), seed=5)


def _graph_for_engine(trt: Any, source: Path, proto: Any, uses: Any, plan: Any) -> bytes:
    return bytes(proto.SerializeToString())


def _fake_kernels(checkpoint: Checkpoint, part: Path, plan: Plan, report: Any) -> list[Any]:
    """Entries as they are compiled, without code: tests/kernels compiles it."""
    made = []
    for spec in specs_of(bundles.sizes_of(checkpoint.model, 1)):
        for target in (80, 89, 120):
            path = part / f"{spec.name}.sm_{target}.cubin"
            path.write_bytes(b"\x7fELF" + spec.name.encode())
            made.append(
                {
                    "name": spec.name,
                    "target": f"sm_{target}",
                    "file": path.name,
                    "sha256": file_sha256(path),
                    "symbol": f"{spec.name}_kernel",
                    "threads": 32 * spec.num_warps,
                    "shared_bytes": 64 * 1024 if target == 120 else 1024,
                    "arguments": [*spec.arguments.values(), "*scratch", "*scratch"],
                    "constants": spec.constants,
                }
            )
    return made


@pytest.fixture(scope="module", params=["checkpoint", "flow_checkpoint"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose engines are graphs, in float32 but for attention and caches."""
    given: Checkpoint = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp("device") / request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "build_engine", _graph_for_engine)
        patch.setattr(engines, "EVERYTHING", frozenset({"TensorScatter", "Attention"}))
        patch.setattr(bundles, "_write_kernels", _fake_kernels)
        export_bundle(given, folder, max_length=96, engines=Plan(), report=lambda line: None)
    return open_bundle(folder)


class Machine:
    """A fake GPU, and sessions on it."""

    def __init__(self, patch: pytest.MonkeyPatch, bundle: Bundle, **options: int) -> None:
        self.bundle, self.driver = bundle, FakeDriver(**options)
        sizes = bundle.manifest.sizes
        self.driver.width = sizes.hidden_size
        self.driver.codebook_size = getattr(sizes, "codebook_size", 0)
        self.driver.latent_size = math.prod(getattr(sizes, "latent_shape", ()))
        builder = bundle.manifest.components["decoder"].builder
        assert builder is not None
        profiles = {
            " ".join(given.name for given in part.inputs[:2]): part.profiles
            for part in bundle.manifest.components.values()
            if part.profiles
        }
        self.trt = FakeTensorRT(self.driver, builder.version, profiles)
        patch.setattr(cudas, "import_driver", lambda: self.driver)
        patch.setattr(tensorrt, "import_library", lambda name: self.trt)
        patch.setattr(
            "janus_edge.runtime.backends.tensorrt_library.import_library", lambda name: self.trt
        )

    def session(self) -> Session:
        """On this GPU."""
        return Session(self.bundle, device="cuda")


@pytest.fixture
def machine(exported: Bundle, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch, exported)


def _drawn(session: Session, request: ImageRequest) -> list[Any]:
    return list(session.generate_image(request))


def _results(events: list[Any]) -> np.ndarray:
    images = [event for event in events if isinstance(event, Image)]
    return np.stack([image.codes if image.latent is None else image.latent for image in images])


def _by_host(machine: Machine, request: ImageRequest, patch: pytest.MonkeyPatch) -> np.ndarray:
    """The same engines, driven by the loops that every backend has."""
    with patch.context() as apart:
        apart.setattr("janus_edge.runtime.engines.Engines.on_device", False)
        return _results(_drawn(machine.session(), request))


@pytest.mark.parametrize(
    "more", [{}, {"guidance_scale": 1.0}, {"num_images": 2}, {"reference": True}]
)
def test_it_draws_what_the_host_s_loop_draws(
    machine: Machine, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ImageRequest(prompt=PROMPTS.prompt, seed=5, **more)
    found, expected = (
        _results(_drawn(machine.session(), request)),
        _by_host(machine, request, monkeypatch),
    )
    if found.dtype.kind == "i":
        assert np.array_equal(found, expected)
    else:
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_step_is_one_launch(machine: Machine) -> None:
    """All memory first, then two steps sent one by one, one captured, all others launched; the host
    waits for nothing between the codes of a row."""
    events = _drawn(machine.session(), ImageRequest(prompt="a star", guidance_scale=2.0))
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
    _drawn(machine.session(), request)
    rows = {
        context.shapes["embeds"][0]
        for context in machine.trt.contexts
        if "embeds" in context.shapes
    }
    assert rows == {1, 2} and machine.driver.names().count("cuGraphInstantiate") == 2


@pytest.mark.parametrize("solver", ["ab2", "heun"])
def test_other_solvers(machine: Machine, solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """AB2's steps lean on the ones before, across a change of guidance; Heun's run on the host."""
    if machine.bundle.manifest.family != "janusflow":
        pytest.skip("of a flow")
    request = ImageRequest(prompt="a star", num_steps=6, guidance_end=0.6, solver=solver)
    found = _results(_drawn(machine.session(), request))
    expected = _by_host(machine, request, monkeypatch)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert ("cuGraphLaunch" in machine.driver.names()) == (solver == "ab2")


def test_events_come_as_from_a_cpu(machine: Machine) -> None:
    request = ImageRequest(prompt=PROMPTS.prompt, previews=True)
    events = _drawn(machine.session(), request)
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
    found = [e.pixels for e in _drawn(machine.session(), request) if isinstance(e, Preview)]
    with monkeypatch.context() as apart:
        apart.setattr("janus_edge.runtime.engines.Engines.on_device", False)
        events = _drawn(machine.session(), request)
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


def test_memory_is_that_of_the_latest_loop(machine: Machine) -> None:
    """One number of rows is kept at a time, and goes with the session."""
    session = machine.session()
    _drawn(session, PROMPTS)
    held = machine.driver.held()
    _drawn(session, ImageRequest(prompt="a star", previews=True))
    _drawn(session, PROMPTS)
    assert machine.driver.held() == held
    events = session.generate_image(PROMPTS)
    next(events)
    events.close()  # in the middle
    assert machine.driver.held() == held
    del session, events
    gc.collect()
    assert machine.driver.held() == 0 and not machine.driver.hosts


def test_a_second_picture_needs_no_setting_up(machine: Machine) -> None:
    """The same memory, contexts and captured step, for other settings, seeds and words as well."""
    session, janus = machine.session(), machine.bundle.manifest.family == "janus"
    _drawn(session, ImageRequest(prompt="a small red star", seed=1))
    calls, contexts = len(machine.driver.calls), len(machine.trt.contexts)
    more: dict[str, Any] = {"temperature": 0.7, "top_k": 9} if janus else {"num_steps": 9}
    request = ImageRequest(prompt="a small red star", seed=2, guidance_scale=3.0, **more)
    found = _results(_drawn(session, request))
    again = machine.driver.calls[calls:]
    names = Counter(name for name, _ in again)
    assert not {"cuMemAlloc", "cuStreamBeginCapture", "cuModuleLoadData"} & set(names)
    assert len(machine.trt.contexts) == contexts
    table = machine.bundle.manifest.sizes.hidden_size * 40 * 2
    assert all(sent[2] != table for name, sent in again if name == "cuMemcpyHtoDAsync") or not janus
    fresh = _results(_drawn(machine.session(), request))
    assert np.array_equal(found, fresh)


def test_two_pictures_at_once_have_a_loop_each(machine: Machine) -> None:
    """Their events read in turn; neither draws into the other's memory."""
    requests = [ImageRequest(prompt="a star", seed=seed) for seed in (1, 2)]
    expected = [_results(_drawn(machine.session(), each)) for each in requests]
    session = machine.session()
    streams = [session.generate_image(each) for each in requests]
    events: list[list[Any]] = [[], []]
    for pair in zip_longest(*streams):
        for kept, event in zip(events, pair, strict=True):
            kept.append(event)
    for kept, one in zip(events, expected, strict=True):
        assert np.array_equal(_results(kept), one)


def test_what_is_kept_makes_room(machine: Machine) -> None:
    """Memory of a loop that is merely kept goes where something else needs it."""
    session = machine.session()
    _drawn(session, PROMPTS)
    cuda = session._engines._shared.cuda
    kept = machine.driver.held()
    machine.driver.total = kept + 1000
    block = cuda.array((2000,), "uint8")
    assert machine.driver.held() < kept
    machine.driver.total = 2**30
    del block
    _drawn(session, PROMPTS)
    assert machine.driver.held() >= kept


def test_the_first_error_is_the_one_that_is_said(machine: Machine) -> None:
    """Waiting for a broken device fails, too; the reason is what broke it."""
    session = machine.session()
    machine.driver.failing["cuLaunchKernel"] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    machine.driver.failing["cuStreamSynchronize"] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    machine.driver.failing_from["cuStreamSynchronize"] = "cuLaunchKernel"
    with pytest.raises(DeviceError, match="cuLaunchKernel"):
        _drawn(session, PROMPTS)
    machine.driver.failing.clear()
    assert len(_results(_drawn(session, PROMPTS))) == 2  # nothing half done was kept


def test_an_engine_that_cannot_be_captured_is_asked(machine: Machine) -> None:
    machine.trt.is_capturable = False
    session = machine.session()
    with pytest.warns(DeviceWarning, match="says that its work cannot be captured"):
        found = _results(_drawn(session, PROMPTS))
    assert "cuStreamBeginCapture" not in machine.driver.names()
    machine.trt.is_capturable = True
    assert np.array_equal(found, _results(_drawn(machine.session(), PROMPTS)))


def test_logits_that_are_no_numbers_are_one_line(machine: Machine) -> None:
    if machine.bundle.manifest.family != "janus":
        pytest.skip("of codes")
    machine.driver.is_unsound = True
    with pytest.raises(BundleError, match="logits that are NaN or beyond 1e30"):
        _drawn(machine.session(), PROMPTS)


def test_a_kernel_of_other_sizes_is_refused(exported: Bundle, monkeypatch: Any) -> None:
    machine = Machine(monkeypatch, exported)
    key = "NUM_CODES" if exported.manifest.family == "janus" else "SIZE"
    for kernel in exported.manifest.kernels:
        monkeypatch.setitem(kernel.constants, key, 4097)
    with pytest.raises(BundleError, match=f"compiled for {key} 4097, not"):
        _drawn(machine.session(), PROMPTS)


def test_a_captured_step_keeps_what_it_writes_to() -> None:
    """The graph holds bare addresses: freed memory would be somebody else's by then."""
    driver = FakeDriver()
    cuda = cudas.Cuda(driver=driver)

    def captured() -> tuple[Any, int]:
        array = cuda.zeros((8,), "uint8")
        cuda.synchronize()
        work = partial(_set, cuda, array)
        return cuda.capture(work), array.address

    launch, address = captured()
    gc.collect()
    launch()
    cuda.synchronize()
    assert driver.at(address, np.uint8, 8).tolist() == [7] * 8
    del launch
    gc.collect()
    assert driver.held() == 0


def _set(cuda: cudas.Cuda, array: cudas.DeviceArray) -> None:
    cuda.call("cuMemsetD8Async", array.address, 7, array.nbytes, cuda.stream)


def test_gpus_do_not_change_places() -> None:
    """Freeing the memory of one leaves a thread at work on the other; both are given back."""
    driver = FakeDriver()
    driver.count = 2
    one, two = cudas.Cuda(0, driver), cudas.Cuda(1, driver)
    array = one.array((4,), "uint8")
    two.enter()
    current = driver.cuCtxGetCurrent()[1]
    del array
    gc.collect()
    assert driver.held() == 0 and driver.cuCtxGetCurrent()[1] == current
    for _ in range(3):  # as `doctor` and every check do
        cudas.Cuda(1, driver)
    gc.collect()
    assert driver.contexts == {0: 1, 1: 1} and len(driver.streams) == 2
    del one, two
    gc.collect()
    assert driver.contexts == {0: 0, 1: 0} and not driver.streams


def test_a_gpu_that_gives_no_stream_is_given_back() -> None:
    driver = FakeDriver()
    driver.failing["cuStreamCreate"] = CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(DeviceError, match="cuStreamCreate"):
        cudas.Cuda(driver=driver)
    assert driver.contexts == {0: 0}


def test_a_picture_needs_no_host_for_top_k(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if machine.bundle.manifest.family != "janus":
        pytest.skip("of codes")
    for more in ({"top_k": 5}, {"top_p": 0.7}, {"temperature": 0.0}):
        request = ImageRequest(prompt=PROMPTS.prompt, seed=1, **more)
        before = machine.driver.names().count("cuGraphLaunch")
        found = _results(_drawn(machine.session(), request))
        assert np.array_equal(found, _by_host(machine, request, monkeypatch))
        launched = machine.driver.names().count("cuGraphLaunch") > before
        assert launched == ("top_p" not in more)  # the kernel has no nucleus


def test_out_of_memory_says_how_much(exported: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, exported, total=50_000)
    with pytest.raises(DeviceError, match=r"out of memory: \d+ MB.* needed, .* free; draw fewer"):
        _drawn(machine.session(), PROMPTS)


@pytest.mark.parametrize(
    "function", ["cuGraphLaunch", "cuLaunchKernel", "cuEventSynchronize", "cuModuleLoadData"]
)
def test_a_failing_driver_is_one_line(machine: Machine, function: str) -> None:
    session = machine.session()
    machine.driver.failing[function] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(DeviceError) as raised:
        _drawn(session, PROMPTS)
    text = f"cuda:0: {function}: CUDA_ERROR_ILLEGAL_ADDRESS: cuda error illegal address"
    assert str(raised.value) == text


def test_a_refusing_engine_is_one_line(machine: Machine) -> None:
    session = machine.session()
    machine.trt.refuse = lambda: "Error Code 1:\n no kernel"
    with pytest.raises(DeviceError, match=r"refuses its work: Error Code 1: no kernel \(\d+ of"):
        _drawn(session, PROMPTS)


def test_without_a_capture_it_draws_the_same(machine: Machine) -> None:

    def refuse_in_capture() -> str:
        return "not in a capture" if machine.driver.is_capturing else ""

    expected = _results(_drawn(machine.session(), PROMPTS))
    machine.trt.refuse = refuse_in_capture
    session = machine.session()
    with pytest.warns(DeviceWarning, match="steps are sent bit by bit: .* not in a capture"):
        found = _results(_drawn(session, PROMPTS))
    assert np.array_equal(found, expected)
    machine.trt.refuse = lambda: ""
    assert np.array_equal(_results(_drawn(session, PROMPTS)), expected)


def test_another_gpu_or_version_says_how_to_rebuild(
    exported: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, exported, capability=75)
    with pytest.raises(DeviceError, match=r"sm_75\), only sm_120, sm_80, sm_89; .*--target sm_75"):
        _drawn(machine.session(), PROMPTS)
    machine = Machine(monkeypatch, exported)
    machine.trt.__version__ = "0.1"
    with pytest.raises(DeviceError, match=r"built with tensorrt_rtx .*, here is 0\.1; export"):
        machine.session()
    monkeypatch.setattr(FakeTensorRT, "Runtime", lambda self, logger: _refusing(logger))
    machine = Machine(monkeypatch, exported)
    with pytest.raises(
        DeviceError, match=r"cannot open it on cuda:0 \(Fake RTX, sm_89\): wrong GPU;"
    ):
        _drawn(machine.session(), PROMPTS)


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
        _drawn(Machine(monkeypatch, exported, capability=capability).session(), PROMPTS)
    for capability in (87, 121):
        with pytest.raises(DeviceError, match=f"--target sm_{capability}"):
            _drawn(Machine(monkeypatch, exported, capability=capability).session(), PROMPTS)
    machine = Machine(monkeypatch, exported, capability=120)
    _drawn(machine.session(), PROMPTS)
    assert "cuFuncSetAttribute" in machine.driver.names()  # more than 48 KB of shared memory


def test_what_was_compiled_stays_beside_the_bundle(machine: Machine) -> None:
    session = machine.session()
    _drawn(session, PROMPTS)
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
        found = pool.submit(lambda: _results(_drawn(session, PROMPTS))).result()
    assert np.array_equal(found, _results(_drawn(session, PROMPTS)))


def test_memory_given_back_inside_a_capture_waits(machine: Machine) -> None:
    gpu = cudas.Cuda()
    array = gpu.array((4,), "float32")
    held = machine.driver.held()
    arrays = [array]
    del array
    gpu.capture(arrays.clear)
    assert machine.driver.held() < held
