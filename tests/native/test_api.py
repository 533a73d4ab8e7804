"""The C API's rules: what it refuses and how, threads, cancelling, lifetimes, logs."""

from __future__ import annotations

import ctypes
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from janus_edge.runtime.bundle import SHIPPED, open_bundle
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.events import Image
from janus_edge.runtime.requests import ImageRequest
from janus_edge.runtime.session import Session
from tests.native import capi
from tests.native.capi import Api, ApiError, Event

JANUS, FLOW = SHIPPED / "tiny-janus", SHIPPED / "tiny-flow"


def refused(api: Api, call: Any) -> tuple[int, str]:
    """The status and the line of a call, which must fail."""
    with pytest.raises(ApiError) as caught:
        call()
    line = str(caught.value)
    assert line and "\n" not in line
    return caught.value.status, line


DRAWN: dict[str, Any] = {"prompt": b"a"}
ASKED: dict[str, Any] = {"prompt": b"a", "task": 1}
WRONG: list[tuple[Path, dict[str, Any], str]] = [
    (JANUS, {"prompt": b""}, "is empty"),
    (JANUS, {"prompt": b" \xe3\x80\x80\n"}, "is empty"),
    (JANUS, {"prompt": None}, "prompt is NULL"),
    (JANUS, {"prompt": b"a <begin_of_image>"}, "leave it out"),
    (JANUS, {"prompt": b"a red circle " * 300}, "make it shorter"),
    (JANUS, DRAWN | {"task": 7}, "task is 7"),
    (JANUS, DRAWN | {"temperature": -1.0}, "temperature is -1"),
    (JANUS, DRAWN | {"temperature": math.inf}, "temperature is inf"),
    (JANUS, DRAWN | {"top_p": 0.0}, "top_p is 0"),
    (JANUS, DRAWN | {"top_k": -2}, "top_k is -2"),
    (JANUS, DRAWN | {"guidance_scale": 101.0}, "from 0 to 100"),
    (JANUS, DRAWN | {"num_images": 0}, "num_images is 0"),
    (JANUS, DRAWN | {"num_images": 1025}, "num_images is 1025"),
    (JANUS, DRAWN | {"seed": 2**63}, "seed is"),
    (JANUS, DRAWN | {"num_steps": 3}, "num_steps means nothing to tiny-janus"),
    (JANUS, DRAWN | {"solver": b"euler"}, "solver means nothing"),
    (JANUS, DRAWN | {"max_tokens": 9}, "max_tokens means nothing to a request to draw"),
    (JANUS, DRAWN | {"input_images": [np.zeros((2, 2), np.uint8)]}, "about 0 images, 1 are there"),
    (FLOW, DRAWN | {"top_k": 3}, "top_k means nothing to tiny-flow"),
    (FLOW, DRAWN | {"solver": b"rk4"}, "euler, ab2, heun"),
    (FLOW, DRAWN | {"shift": 0.0}, "shift is 0"),
    (JANUS, {"task": 1, "prompt": b""}, "the question is empty"),
    (JANUS, ASKED | {"max_tokens": 0}, "max_tokens is 0"),
    (JANUS, ASKED | {"guidance_scale": 2.0}, "means nothing to a request to ask"),
    (JANUS, ASKED | {"previews": 1}, "previews means nothing"),
    (JANUS, ASKED | {"history": [(b"b", None, 0)]}, "no answer"),
    (JANUS, ASKED | {"history": [(b"b", b"c", 1)]}, "more images than the 0"),
    (JANUS, ASKED | {"num_input_images": 1}, "input_images is NULL"),
    (JANUS, ASKED | {"input_images": [np.zeros((0, 2), np.uint8)]}, "a picture of 2 x 0"),
    (JANUS, ASKED | {"input_images": [np.zeros((2, 2, 2), np.uint8)]}, "2 channels"),
]


@pytest.mark.parametrize(("bundle", "settings", "says"), WRONG)
def test_wrong_requests_are_one_line(
    api: Api, bundle: Path, settings: dict[str, Any], says: str
) -> None:
    with api.session(bundle) as session:

        def start() -> None:
            with api.job(session, **settings):
                raise AssertionError("it started")

        status, line = refused(api, start)
    assert status == capi.E_ARGUMENT and says in line, line


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        ({"device": b"tpu"}, capi.E_ARGUMENT, "give auto, cpu, cuda"),
        ({"device": b"cuda:x"}, capi.E_ARGUMENT, "give auto, cpu, cuda"),
        ({"device": b"cuda:0"}, capi.E_DEVICE, "no CUDAExecutionProvider"),
        ({"device": b"openvino"}, capi.E_DEVICE, "no OpenVINOExecutionProvider"),
        ({"num_threads": -1}, capi.E_ARGUMENT, "num_threads is -1"),
        ({"num_threads": 5000}, capi.E_ARGUMENT, "give 0 to 1024"),
        ({"onnxruntime": b"/nonexistent/libonnxruntime.so"}, capi.E_RUNTIME, "before"),
        ({"size": 4}, capi.E_ABI, "set its size"),
        ({"size": 2**31}, capi.E_ABI, "set its size"),
        ({"context_mb": -1}, capi.E_ARGUMENT, "context_mb is -1; give a value from 0 to 1048576"),
    ],
)
def test_wrong_options_are_one_line(
    api: Api, options: dict[str, Any], status: int, says: str
) -> None:
    def start() -> None:
        with api.session(JANUS, **options):
            raise AssertionError("it opened")

    with api.session(JANUS):  # with the library that the process stays with
        found, line = refused(api, start)
    assert found == status and says in line, line


def test_a_wrong_event_leaves_the_job(api: Api) -> None:
    with api.session(JANUS) as session, api.job(session, prompt=b"a star") as job:
        wrong = capi.RawEvent(size=3)
        assert api.je.je_job_next(job, ctypes.byref(wrong)) == capi.E_ABI
        assert api.je.je_job_next(job, None) == capi.E_ARGUMENT
        assert api.next(job)[0] == capi.OK


def test_null_is_refused(api: Api) -> None:
    je, nothing = api.je, None
    je.je_job_next.argtypes = je.je_job_start.argtypes = None
    assert je.je_session_open(nothing, nothing, nothing) == capi.E_ARGUMENT
    made = ctypes.c_void_p(1)
    assert je.je_session_open(nothing, nothing, ctypes.byref(made)) == capi.E_ARGUMENT
    assert made.value is None
    assert je.je_job_next(nothing, nothing) == capi.E_ARGUMENT
    assert je.je_job_start(nothing, nothing, nothing) == capi.E_ARGUMENT
    assert je.je_session_info(nothing, nothing) == capi.E_ARGUMENT
    assert je.je_tokenize(nothing, nothing, nothing, 0, nothing) == capi.E_ARGUMENT
    assert je.je_image_load(nothing, nothing) == capi.E_ARGUMENT
    assert je.je_image_save(nothing, nothing, nothing, 0) == capi.E_ARGUMENT
    for ends in (je.je_session_close, je.je_job_cancel, je.je_job_free, je.je_image_free):
        ends(nothing)
    je.je_options_init(nothing, 0)
    je.je_request_init(nothing, 0)


@pytest.mark.parametrize("task", [capi.DRAW, capi.ASK])
def test_cancelled_from_another_thread(api: Api, task: int) -> None:
    settings: dict[str, Any] = {"task": task, "prompt": b"a red circle"}
    settings |= {"num_images": 50} if task == capi.DRAW else {"max_tokens": 10000}
    with api.session(FLOW) as session, api.job(session, **settings) as job:
        timer = threading.Timer(0.05, api.je.je_job_cancel, (job,))
        timer.start()
        while (status := api.next(job)[0]) == capi.OK:
            pass
        timer.join()
        if task == capi.DRAW:  # an answer may have ended before
            assert status == capi.CANCELLED
            assert api.next(job)[0] == capi.CANCELLED


def test_cancelled_before_it_began(api: Api) -> None:
    with api.session(JANUS) as session, api.job(session, prompt=b"a star") as job:
        api.je.je_job_cancel(job)
        assert api.next(job)[0] == capi.CANCELLED


def test_the_largest_seed(api: Api) -> None:
    most = 2**63 - 1
    with api.session(JANUS) as session:
        (found,) = api.draw(session, prompt=b"a star", seed=most)
        status, line = refused(api, lambda: api.draw(session, prompt=b"a", seed=most, num_images=2))
    assert status == capi.E_ARGUMENT and f"from 0 to {most - 1}" in line
    request = ImageRequest(prompt="a star", seed=most)
    own = [e for e in Session(open_bundle(JANUS)).generate_image(request) if isinstance(e, Image)]
    assert np.array_equal(found.codes, own[0].codes)
    with pytest.raises(OptionError, match=f"from 0 to {most - 1}"):
        ImageRequest(prompt="a", seed=most, num_images=2)


def test_several_jobs_on_one_engine(api: Api) -> None:
    """At once, each on a thread, they give what they give alone."""

    def draw(seed: int) -> list[Event]:
        return api.draw(session, prompt=b"two blue squares", seed=seed)

    with api.session(JANUS) as session:
        alone = [draw(seed)[0].pixels for seed in range(4)]
        found: dict[int, np.ndarray] = {}
        threads = [
            threading.Thread(target=lambda s=seed: found.update({s: draw(s)[0].pixels}))
            for seed in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(np.array_equal(found[seed], alone[seed]) for seed in range(4))


def test_jobs_in_turn_do_not_disturb_each_other(api: Api) -> None:
    with api.session(JANUS) as session:
        alone = [api.draw(session, prompt=b"a star", seed=seed)[0].pixels for seed in (1, 2)]
        with (
            api.job(session, prompt=b"a star", seed=1) as one,
            api.job(session, prompt=b"a star", seed=2) as two,
        ):
            for _ in range(64):
                api.next(one)
                api.next(two)
            assert np.array_equal(api.next(one)[1].pixels, alone[0])
            assert np.array_equal(api.next(two)[1].pixels, alone[1])


def test_a_job_keeps_what_it_needs(api: Api) -> None:
    """The session is closed, and what the request pointed to is gone, before the first event."""
    with api.session(JANUS) as session:
        expected = api.ask(
            session, prompt=b"what is it?", input_images=[np.full((9, 9), 7, np.uint8)]
        )
        job = ctypes.c_void_p()
        pixels = np.full((9, 9), 7, np.uint8)
        given = api.request(task=capi.ASK, prompt=b"what is it?", input_images=[pixels])
        api.check(api.je.je_job_start(session, ctypes.byref(given), ctypes.byref(job)))
    pixels[:] = 200
    del given
    texts = []
    while (told := api.next(job))[0] == capi.OK:
        texts.append(told[1].text)
    api.je.je_job_free(job)
    assert b"".join(texts) == expected


def test_errors_are_the_threads_own(api: Api) -> None:
    seen = []
    with pytest.raises(ApiError), api.session("/nonexistent"):
        pass
    other = threading.Thread(target=lambda: seen.append(api.je.je_error()))
    other.start()
    other.join()
    assert seen == [b""] and b"/nonexistent" in api.je.je_error()


def test_a_log(api: Api) -> None:
    lines: list[tuple[int, str]] = []
    log = capi.Log(lambda context, level, line: lines.append((level, line.decode())))
    with api.session(JANUS, log=log) as session:
        api.draw(session, prompt=b"a star")
    opened = [line.split()[0] for level, line in lines if level == 0 and " opened in " in line]
    assert sorted(opened) == [
        "decoder",
        "image_decoder",
        "image_head",
    ]  # tables open with the bundle
    assert all("\n" not in line.strip() for _, line in lines)
