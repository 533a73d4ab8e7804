"""The same on a real GPU, where there is one: engines, kernels and loops as a user has them.

    pytest tests/runtime/test_gpu.py tests/kernels

The small models, exported on the spot. Logits of engines are not a CPU's to the last bit, so codes
are compared with those that the host's sampler takes from the same engines.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from janus_edge.runtime.backends.cubins import Kernels
from janus_edge.runtime.backends.tensorrt_library import find_library
from janus_edge.runtime.bundle import Bundle, open_bundle
from janus_edge.runtime.cuda import Cuda
from janus_edge.runtime.devices import Device, has_kernels
from janus_edge.runtime.driver import num_gpus
from janus_edge.runtime.errors import DeviceError
from janus_edge.runtime.events import Image, Text
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session

CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"
PROMPTS = ImageRequest(prompt=("three red circles", "a blue square left of a star"), seed=1)
GPU_ONNX = "CUDAExecutionProvider" in ort.get_available_providers()


def _has_gpu() -> bool:
    try:
        return num_gpus()[1] > 0
    except DeviceError:
        return False


pytestmark = pytest.mark.skipif(not _has_gpu(), reason="no NVIDIA GPU here")


def _exported(folder: Path, model: str, *words: str) -> Bundle:
    kept = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [
        sys.executable,
        "-m",
        "janus_edge",
        "export",
        CHECKPOINTS / model,
        folder,
        *words,
    ]
    subprocess.run([*map(str, command)], check=True, env=kept)
    return open_bundle(folder)


BY_KERNELS = "{} by our kernels"
MODELS = ("tiny-janus", "tiny-flow")


@pytest.fixture(scope="module", params=[*map(BY_KERNELS.format, MODELS), *MODELS])
def engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    model = request.param.split()[0]
    if request.param == BY_KERNELS.format(model):
        words = ("--backend", "cuda", "--quantize", "int4")
        words += ("--target", f"sm_{Cuda().capability}")
        return _exported(tmp_path_factory.mktemp("gpu") / "kernels", model, *words)
    trt = find_library()
    if trt is None:
        pytest.skip("no TensorRT here")
    known = getattr(trt, "ComputeCapability", None)
    if known is not None and f"SM{Cuda().capability}" not in known.__members__:
        pytest.skip(f"{trt.__name__} {trt.__version__} has no engines for {Cuda().name}")
    folder = tmp_path_factory.mktemp("gpu") / request.param
    return _exported(folder, request.param, "--backend", "tensorrt")


def _drawn(bundle: Bundle, device: str = "cuda", request: ImageRequest = PROMPTS) -> np.ndarray:
    events = Session(bundle, device=device).generate_image(request)
    images = [event for event in events if isinstance(event, Image)]
    return np.stack([image.codes if image.latent is None else image.latent for image in images])


@pytest.mark.parametrize(
    "more", [{}, {"guidance_scale": 1.0}, {"num_images": 3}, {"num_images": 5}]
)
def test_the_loops_agree(
    engines: Bundle, more: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with more rows than a tile of products has."""
    if not Session(engines, device="cuda")._engines.loops_on_gpu:
        pytest.skip("beside our decoder a flow has the host's loop alone")
    request = ImageRequest(prompt=PROMPTS.prompt, seed=1, **more)
    found = _drawn(engines, request=request)
    monkeypatch.setattr("janus_edge.runtime.engines.Engines.loops_on_gpu", False)
    expected = _drawn(engines, request=request)
    if found.dtype.kind == "i":
        assert np.array_equal(found, expected)
    else:  # rows run together here, one by one there
        assert np.abs(found - expected).max() < 1e-2 * np.abs(expected).max()


def test_it_draws_nearly_what_a_cpu_draws(engines: Bundle) -> None:
    """Halves choose another code now and then, and what follows differs: most agree."""
    found = _drawn(engines)
    shipped = open_bundle(f"tiny-{'janus' if found.dtype.kind == 'i' else 'flow'}")
    expected = _drawn(shipped, "cpu")
    if found.dtype.kind == "i":
        assert (found[:, :8] == expected[:, :8]).mean() > 0.7
    else:
        assert np.abs(found - expected).mean() < 0.1 * np.abs(expected).mean()


@pytest.fixture
def by_our_kernels(engines: Bundle) -> Bundle:
    if not has_kernels(engines.manifest, Device("cuda")):
        pytest.skip("of our kernels")
    return engines


def test_hidden_states_by_our_kernels_are_those_of_the_cpu(by_our_kernels: Bundle) -> None:
    """So are the logits. The CPU rounds what products take to 8 bits, our kernels to float16."""
    found, expected = _computed(by_our_kernels, "cuda"), _computed(by_our_kernels, "cpu")
    assert found.keys() == expected.keys() >= {"hidden", "text_head"}
    for name, values in expected.items():
        assert np.abs(found[name] - values).max() < 0.05 * np.abs(values).max(), name


def test_overlap_changes_no_bit_of_our_kernels(
    by_our_kernels: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that begins before the one before it has ended waits for what that one writes."""
    found, launch = _computed(by_our_kernels, "cuda"), Kernels.launch

    def one_by_one(self: Kernels, *given: Any, overlaps: bool = False) -> None:
        launch(self, *given)

    monkeypatch.setattr(Kernels, "launch", one_by_one)
    expected = _computed(by_our_kernels, "cuda")
    assert all(np.array_equal(found[name], values) for name, values in expected.items())


@pytest.mark.parametrize("more", [{}, {"num_images": 5}])
def test_passes_of_any_width_by_our_kernels_draw_the_same(
    by_our_kernels: Bundle, more: dict[str, int]
) -> None:
    if by_our_kernels.manifest.family != "janus":
        pytest.skip("of codes")
    drawn = [
        _drawn(by_our_kernels, request=replace(PROMPTS, parallel=width, **more))
        for width in (2, 4, 8)
    ]
    assert all(np.array_equal(codes, drawn[0]) for codes in drawn)


def test_it_answers_the_same_twice(engines: Bundle) -> None:
    request = AskRequest(question="how many?")
    said = [
        "".join(e.text for e in Session(engines, device="cuda").ask(request) if isinstance(e, Text))
        for _ in range(2)
    ]
    assert said[0] == said[1]


@pytest.mark.skipif(not GPU_ONNX, reason="ONNX Runtime without CUDA here")
@pytest.mark.filterwarnings("ignore::janus_edge.runtime.errors.DeviceWarning")
@pytest.mark.parametrize("model", ["tiny-janus", "tiny-flow"])
def test_onnx_runtime_on_cuda(model: str, tmp_path: Path) -> None:
    bundle = _exported(tmp_path / model, model, "--lowering", "portable")
    computed = [_computed(bundle, device) for device in ("cuda", "cpu")]
    for name, values in computed[1].items():
        assert np.abs(computed[0][name] - values).max() < 1e-4 * np.abs(values).max(), name
    found, expected = _drawn(bundle, "cuda"), _drawn(bundle, "cpu")
    if found.dtype.kind == "i":  # one code that was nearly another changes all that follow
        assert (found[:, :16] == expected[:, :16]).mean() > 0.9
    else:
        assert np.abs(found - expected).max() < 1e-2 * np.abs(expected).max()


def _computed(bundle: Bundle, device: str) -> dict[str, np.ndarray]:
    """Hidden states (T, R, D) of a prompt's end and of the same steps after it, and the logits
    (T, R, V) that each head makes of them."""
    engines = Session(bundle, device=device)._engines
    decoder, made = engines.open_decoder(2, 64), np.random.default_rng(3)
    width = bundle.manifest.sizes.hidden_size
    prompt = made.standard_normal((2, 9, width), np.float32)
    states = [decoder.prefill(prompt, np.array([9, 7])).copy()]
    for _ in range(12):
        states.append(decoder.step(made.standard_normal((2, width), np.float32)).copy())
    heads = [n for n in ("image_head", "text_head") if n in bundle.manifest.components]
    logits = {n: np.stack([engines.head(n)(each).copy() for each in states]) for n in heads}
    return {"hidden": np.stack(states), **logits}
