"""ONNX Runtime's other providers: by name, with memory of their own, what they leave to the CPU.

None of them is here: the CPU's provider stands in, under another name and as if its memory were
elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from janus_edge.runtime import devices, driver
from janus_edge.runtime.backends import onnxruntime as backend
from janus_edge.runtime.backends.onnxruntime import OrtEngine, load_graph
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.devices import Device
from janus_edge.runtime.errors import BundleError, DeviceError, DeviceWarning
from janus_edge.runtime.events import Image, Text
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuda is the CPU's provider, and its memory is not numpy's."""
    monkeypatch.setattr(driver, "has_driver", lambda: True)
    monkeypatch.setitem(devices.PROVIDERS, "cuda", "CPUExecutionProvider")
    monkeypatch.setitem(backend._MEMORY, "cuda", "cpu")
    monkeypatch.setattr(OrtEngine, "_is_host", False)
    monkeypatch.setattr(backend, "_NUMBERED", ())


def _results(folder: Path, device: str) -> tuple[list[Any], str]:
    session = Session(open_bundle(folder), num_threads=1, device=device)
    request = ImageRequest(prompt=("a star", "three red circles"), seed=3)
    images = [event for event in session.generate_image(request) if isinstance(event, Image)]
    asked = AskRequest(question="how many?", max_tokens=5, temperature=1.0)
    text = "".join(event.text for event in session.ask(asked) if isinstance(event, Text))
    return [image.codes if image.latent is None else image.latent for image in images], text


@pytest.mark.filterwarnings("ignore::janus_edge.runtime.errors.DeviceWarning")
@pytest.mark.parametrize("folder", ["bundle_dir", "flow_bundle_dir"])
def test_memory_of_its_own_changes_nothing(
    elsewhere: None, request: pytest.FixtureRequest, folder: str
) -> None:
    given = request.getfixturevalue(folder)
    (found, said), (expected, told) = (_results(given, device) for device in ("cuda", "cpu"))
    assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
    assert said == told


def test_caches_stay_there(elsewhere: None, bundle_dir: Path) -> None:
    with pytest.warns(DeviceWarning):
        engine = load_graph(bundle_dir / "decoder.onnx", 1, device=Device("cuda"))
    assert isinstance(engine.zeros((2, 3), "float32"), ort.OrtValue)


def test_what_is_left_to_the_cpu_is_said(bundle_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(devices.PROVIDERS, "openvino", "CPUExecutionProvider")
    says = r"image_head.onnx: openvino:0 leaves \d+ nodes to the CPU: .*\d+ \w+"
    with pytest.warns(DeviceWarning, match=says):
        load_graph(bundle_dir / "image_head.onnx", 1, device=Device("openvino"))


def test_a_provider_that_is_not_here(bundle_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DeviceError, match=r"no DmlExecutionProvider .* install onnxruntime-directml"
    ):
        Session(open_bundle(bundle_dir), device="directml")
    monkeypatch.setattr(ort, "get_available_providers", lambda: list(devices.PROVIDERS.values()))
    with (
        pytest.warns(UserWarning, match="Specified provider"),
        pytest.raises(
            DeviceError, match="CUDAExecutionProvider does not start; `janus-edge doctor`"
        ),
    ):
        load_graph(bundle_dir / "image_head.onnx", 1, device=Device("cuda"))


def test_whose_fault_a_graph_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged for the CPU, not understood by another."""
    (tmp_path / "wrong.onnx").write_bytes(b"wrong")
    monkeypatch.setitem(devices.PROVIDERS, "openvino", "CPUExecutionProvider")
    with pytest.raises(BundleError, match="export it again"):
        load_graph(tmp_path / "wrong.onnx")
    with pytest.raises(DeviceError, match="another version may, --device cpu does"):
        load_graph(tmp_path / "wrong.onnx", device=Device("openvino"))


def test_auto_takes_a_gpu_for_standard_operators_alone(
    bundle_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: list(devices.PROVIDERS.values()))
    manifest = open_bundle(bundle_dir).manifest
    monkeypatch.setattr(driver, "has_driver", lambda: True)
    assert devices.choose(manifest, "auto") == Device("cpu")
    parts = {
        name: part.model_copy(update={"target": "any"})
        for name, part in manifest.components.items()
    }
    portable = manifest.model_copy(update={"components": parts})
    assert devices.choose(portable, "auto") == Device("cuda")
    monkeypatch.setattr(driver, "has_driver", lambda: False)
    assert devices.choose(portable, "auto") == Device("cpu")
    with pytest.raises(DeviceError, match="no NVIDIA driver here"):
        devices.choose(portable, "cuda")


def test_what_changes_between_calls_is_bound_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime copies an input that is wanted elsewhere when it is bound, and never again: on
    an H200 every step saw the lengths of the first."""
    seen: list[int] = []

    class Value:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array.copy()

        def update_inplace(self, array: np.ndarray) -> None:
            self.array[...] = array

        def numpy(self) -> np.ndarray:
            return self.array

    class Binding:
        def bind_ortvalue_input(self, name: str, value: Value) -> None:
            self.lengths = value.array.copy()  # as of now

        def bind_ortvalue_output(self, name: str, value: Value) -> None:
            self.output = value

    class Session:
        def io_binding(self) -> Binding:
            return Binding()

        def run_with_iobinding(self, binding: Binding) -> None:
            seen.append(int(binding.lengths[0]))
            binding.output.array[...] = binding.lengths

    values = SimpleNamespace(ortvalue_from_numpy=lambda array, *place: Value(array))
    monkeypatch.setattr(backend.ort, "OrtValue", values)
    engine = OrtEngine(Session(), Device("cuda"), Path("decoder.onnx"))
    lengths, hidden = np.zeros(1, np.int64), np.zeros(1, np.int64)
    call = engine.bind({"lengths": lengths}, {"hidden": hidden})
    for step in range(3):
        lengths[:] = step
        call()
        assert hidden[0] == step
    assert seen == [0, 1, 2]
