"""The C API with a bundle's GPU kernels draws and answers what Python does: on a stub of libcuda,
where kernels are computed by their references, and on a GPU where there is one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from janus_edge.model.weights import Checkpoint
from janus_edge.runtime.bundle import Bundle, open_bundle
from janus_edge.runtime.driver import has_driver, num_gpus
from janus_edge.runtime.errors import DeviceError
from tests.native import capi
from tests.native.capi import Api, ApiError
from tests.native.conftest import Build
from tests.runtime.fake_machine import (
    export_with_kernels,
    small_checkpoint,
    small_flow_checkpoint,
)
from tests.runtime.stub_library import run_python, with_stub

try:
    HAS_GPU = num_gpus()[1] > 0
except DeviceError:
    HAS_GPU = False

CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stub is for Linux")

ASK = {"question": "how many are there?"}
OF_FAMILY: dict[str, list[dict[str, Any]]] = {
    "janus": [
        {"prompt": "a star", "seed": 3},
        {"prompt": ["a star", "two small red circles on a white background"], "num_images": 5},
        {"prompt": "a star", "guidance_scale": 1.0, "parallel": 3},
        {"prompt": "a star", "guidance_scale": 1.0, "temperature": 0.0, "num_images": 2},
        {"prompt": "a star", "top_k": 5, "previews": True},
        {"prompt": "a star", "top_p": 0.9},
        {"prompt": "a star", "guidance_end": 0.5},
        {"prompt": "a star " * 12, "window": 1},
        {"amid": {"prompt": "a star"}, "drawn": {"prompt": "a star", "num_images": 6}},
        ASK,
    ],
    "janusflow": [{"prompt": "a star", "num_steps": 3}, ASK],
}
MADE = {"janus": small_checkpoint, "janusflow": small_flow_checkpoint}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return with_stub(tmp_path_factory.mktemp("stub"))


@pytest.fixture(scope="module", params=OF_FAMILY)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    made: Checkpoint = MADE[request.param]()
    return export_with_kernels(made, tmp_path_factory.mktemp("kernels") / "small")


def run(
    release: Build, bundle: Bundle, environment: dict[str, str], requests: Any, **more: str
) -> list[str]:
    words = (str(release.library), str(bundle.folder), json.dumps(requests))
    return run_python(environment | more, "tests.native.cuda_session", *words).splitlines()


def test_it_draws_and_answers_as_python_does(
    release: Build, bundle: Bundle, environment: dict[str, str]
) -> None:
    requests = OF_FAMILY[bundle.manifest.family]
    *found, launched = run(release, bundle, environment, requests)
    assert len(found) == len(requests)
    captured = []
    for request, line in zip(requests, map(json.loads, found), strict=True):
        assert line[0] == line[1] and len(line[0]) > 0, line
        captured.append(line[2])
        assert line[3] == bool(request.keys() & {"parallel", "top_p", "window", "guidance_end"})
    assert captured[-1] == 3  # an answer's five tokens: the prompt's, a step, and this again
    if bundle.manifest.family == "janus":  # codes after the first two, twice for two batches
        codes = bundle.manifest.sizes.num_drawn
        assert captured[:2] == [codes - 2, 2 * (codes - 2)] and captured[2] > 0
    expected = {"attend", "attend_kept", "attend_many", "write_slots", "merge", "qkv", "qkv_many"}
    expected |= {"text_logits", "repack4", "repack8", "last_norm", "last_norm_many"}
    if bundle.manifest.family == "janusflow":  # it draws no drafts
        expected -= {"attend_kept"}
    else:  # the GPU draws without the host
        expected |= {"sample", "look_up"}
    assert {f"{name}_kernel" for name in expected} <= set(launched.split())


def test_a_captured_step_goes_with_its_memory(
    release: Build, bundle: Bundle, environment: dict[str, str]
) -> None:
    """Amid a drawing, another one with a longer cache replaces the memory that both use."""
    if bundle.manifest.family != "janus":
        pytest.skip("no codes are drawn")
    longer = {"prompt": "a star " * 52}
    requests = [{"amid": {"prompt": "a star", "guidance_scale": 1.0}, "drawn": longer}]
    line, _ = run(release, bundle, environment, requests)
    assert (found := json.loads(line))[0] == found[1] and len(found[0]) == 2


@pytest.mark.parametrize("call", ["cuStreamEndCapture", "cuGraphLaunch"])
def test_it_draws_where_a_capture_fails(
    release: Build, bundle: Bundle, environment: dict[str, str], call: str
) -> None:
    requests = OF_FAMILY[bundle.manifest.family][:1]
    line, _ = run(release, bundle, environment | {"STUB_FAILS": call}, requests)
    assert json.loads(line) == [(found := json.loads(line)[0]), found, 0, False] and found


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        ({"STUB_MEMORY_MB": "1"}, capi.E_MEMORY, "MB for the decoder needed, "),
        ({"STUB_CAPABILITY": "75"}, capi.E_DEVICE, "are for sm_120, sm_80, sm_89, not for cuda:0"),
    ],
)
def test_what_a_gpu_lacks_is_one_line(
    release: Build,
    bundle: Bundle,
    environment: dict[str, str],
    more: dict[str, str],
    status: int,
    says: str,
) -> None:
    if status == capi.E_DEVICE:  # auto would take the CPU
        more |= {"CUDA_SESSION_DEVICE": "cuda"}
    line, _ = run(release, bundle, environment, OF_FAMILY[bundle.manifest.family][:1], **more)
    kind, code, text = json.loads(line)
    assert (kind, code) == ("error", status) and says in text and "\n" not in text


def test_logits_that_are_no_numbers_are_one_line(
    release: Build, bundle: Bundle, environment: dict[str, str]
) -> None:
    if bundle.manifest.family != "janus":
        pytest.skip("no codes are drawn")
    requests = OF_FAMILY["janus"][:1]
    line, _ = run(release, bundle, environment, requests, CUDA_SESSION_UNSOUND="1")
    kind, code, text = json.loads(line)
    assert (kind, code) == ("error", capi.E_BUNDLE) and "\n" not in text
    assert text.startswith("the model computes logits that are NaN")


@pytest.mark.skipif(not HAS_GPU, reason="no NVIDIA GPU here")
@pytest.mark.parametrize("model", ["tiny-janus", "tiny-flow"])
def test_on_a_gpu(release: Build, tmp_path: Path, model: str) -> None:
    words = ("export", str(CHECKPOINTS / model), str(tmp_path / "b"), "--backend", "cuda")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    run_python(environment, "janus_edge", *words, "--quantize", "int4")
    bundle = open_bundle(tmp_path / "b")
    requests = OF_FAMILY[bundle.manifest.family]
    found = run(release, bundle, environment | {"CUDA_SESSION_DEVICE": "cuda"}, requests)
    assert len(found) == len(requests)
    for line in map(json.loads, found):
        assert line[0] == line[1] and len(line[0]) > 0, line


@pytest.mark.skipif(has_driver(), reason="an NVIDIA driver is here")
def test_without_a_driver(api: Api, bundle: Bundle) -> None:
    refused = pytest.raises(ApiError, match="no NVIDIA driver here; install one")
    with refused as error, api.session(bundle.folder, device=b"cuda"):
        pass
    assert error.value.status == capi.E_DEVICE
    with api.session(bundle.folder, device=b"auto") as session:
        assert api.info(session).device == b"cpu"
