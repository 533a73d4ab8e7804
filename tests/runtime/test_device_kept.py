"""What the loops on a GPU keep for the next image, and what they give back: on a fake one."""

from __future__ import annotations

import gc
from collections import Counter
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np
import pytest

from janus_edge.runtime import cuda as cudas
from janus_edge.runtime.errors import DeviceError
from janus_edge.runtime.requests import ImageRequest
from tests.runtime.fake_cuda import CUresult, FakeDriver
from tests.runtime.fake_machine import PROMPTS, Machine, drawn, results


def test_memory_is_that_of_the_latest_loop(machine: Machine) -> None:
    """One number of rows is kept at a time, and goes with the session."""
    session = machine.session()
    drawn(session, PROMPTS)
    held = machine.driver.held()
    drawn(session, ImageRequest(prompt="a star", previews=True))
    drawn(session, PROMPTS)
    assert machine.driver.held() == held
    events = session.generate_image(PROMPTS)
    next(events)
    events.close()  # in the middle
    assert machine.driver.held() == held
    del session, events
    gc.collect()
    assert machine.driver.held() == 0 and not machine.driver.hosts


def test_a_second_image_needs_no_setting_up(machine: Machine) -> None:
    """The same memory, contexts and captured step, for other settings, seeds and words as well."""
    session, janus = machine.session(), machine.bundle.manifest.family == "janus"
    drawn(session, ImageRequest(prompt="a small red star", seed=1))
    calls, contexts = len(machine.driver.calls), len(machine.trt.contexts)
    more: dict[str, Any] = {"temperature": 0.7, "top_k": 9} if janus else {"num_steps": 9}
    request = ImageRequest(prompt="a small red star", seed=2, guidance_scale=3.0, **more)
    found = results(drawn(session, request))
    again = machine.driver.calls[calls:]
    names = Counter(name for name, _ in again)
    assert not {"cuMemAlloc", "cuStreamBeginCapture", "cuModuleLoadData"} & set(names)
    assert len(machine.trt.contexts) == contexts
    table = machine.bundle.manifest.sizes.hidden_size * 40 * 2
    assert all(sent[2] != table for name, sent in again if name == "cuMemcpyHtoDAsync") or not janus
    fresh = results(drawn(machine.session(), request))
    assert np.array_equal(found, fresh)


def test_two_images_at_once_have_a_loop_each(machine: Machine) -> None:
    """Their events read in turn; neither draws into the other's memory."""
    requests = [ImageRequest(prompt="a star", seed=seed) for seed in (1, 2)]
    expected = [results(drawn(machine.session(), each)) for each in requests]
    session = machine.session()
    streams = [session.generate_image(each) for each in requests]
    events: list[list[Any]] = [[], []]
    for pair in zip_longest(*streams):
        for kept, event in zip(events, pair, strict=True):
            kept.append(event)
    for kept, one in zip(events, expected, strict=True):
        assert np.array_equal(results(kept), one)


def test_what_is_kept_makes_room(machine: Machine) -> None:
    """Memory of a loop that is merely kept goes where something else needs it."""
    session = machine.session()
    drawn(session, PROMPTS)
    cuda = session._engines._shared.cuda
    kept = machine.driver.held()
    machine.driver.total = kept + 1000
    block = cuda.array((2000,), "uint8")
    assert machine.driver.held() < kept
    machine.driver.total = 2**30
    del block
    drawn(session, PROMPTS)
    assert machine.driver.held() >= kept


def test_the_first_error_is_the_one_that_is_said(machine: Machine) -> None:
    """Waiting for a broken device fails, too; the reason is what broke it."""
    session = machine.session()
    machine.driver.failing["cuLaunchKernel"] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    machine.driver.failing["cuStreamSynchronize"] = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    machine.driver.failing_from["cuStreamSynchronize"] = "cuLaunchKernel"
    with pytest.raises(DeviceError, match="cuLaunchKernel"):
        drawn(session, PROMPTS)
    machine.driver.failing.clear()
    assert len(results(drawn(session, PROMPTS))) == 2  # nothing half done was kept


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
