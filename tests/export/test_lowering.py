"""Two lowerings of one definition draw and answer alike."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from janus_edge.export.bundle.writer import export_folder
from janus_edge.export.graph.component import relative_error
from janus_edge.export.quantization.presets import preset_of
from janus_edge.runtime.bundle import Bundle, open_bundle
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.events import Image, Text
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session

PRESETS = ("fp32", "int4")  # int8's products are tested in test_quantize.py
PROMPTS = ImageRequest(prompt=("a star", "three small red circles on white"))


@pytest.fixture(scope="module", params=["checkpoint_dir", "flow_dir"])
def bundles(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Bundle]:
    """Of a Janus, then of a JanusFlow: by preset and lowering."""
    given, folder = request.getfixturevalue(request.param), tmp_path_factory.mktemp("lowered")
    found = {}
    for preset in PRESETS:
        for lowering in ("onnxruntime", "portable"):
            path = folder / f"{preset}-{lowering}"
            export_folder(
                given,
                path,
                quantize=preset,
                lowering=lowering,
                max_length=96,
                report=lambda line: None,
            )
            found[preset, lowering] = open_bundle(path)
    return found


def _drawn(bundle: Bundle) -> np.ndarray:
    """Codes or latents of two prompts of different lengths, drawn together."""
    session = Session(bundle, num_threads=1)
    images = [e for e in session.generate_image(PROMPTS) if isinstance(e, Image)]
    parts = [image.codes if image.latent is None else image.latent for image in images]
    return np.stack([part for part in parts if part is not None])


@pytest.mark.parametrize("preset", PRESETS)
def test_they_draw_alike(bundles: dict[tuple[str, str], Bundle], preset: str) -> None:
    own, portable = (_drawn(bundles[preset, name]) for name in ("onnxruntime", "portable"))
    exact = _drawn(bundles["fp32", "onnxruntime"])
    if own.dtype.kind == "f":
        budget = 1e-4 if preset == "fp32" else 2 * relative_error(own, exact)
        assert relative_error(portable, own) < budget
    elif preset == "fp32":
        assert np.array_equal(portable, own)
    else:  # one code chosen otherwise changes all that follow
        assert np.mean(portable == own) > 0.5


def test_they_answer_alike(bundles: dict[tuple[str, str], Bundle]) -> None:
    question = AskRequest(question="how many?", max_tokens=6)
    answers = [
        "".join(
            event.text
            for event in Session(bundles["fp32", name], num_threads=1).ask(question)
            if isinstance(event, Text)
        )
        for name in ("onnxruntime", "portable")
    ]
    assert answers[0] == answers[1] != ""


@pytest.mark.parametrize("preset", PRESETS)
def test_portable_graphs_have_standard_operators_alone(
    bundles: dict[tuple[str, str], Bundle], preset: str
) -> None:
    for lowering, targets in (("portable", {"any"}), ("onnxruntime", {"any", "cpu"})):
        bundle = bundles[preset, lowering]
        found = {part.target for part in bundle.manifest.components.values()}
        assert found == targets
        if lowering == "portable":
            for name, part in bundle.manifest.components.items():
                if part.file.endswith(".onnx"):
                    model = onnx.load(bundle.path(name))
                    assert [opset.domain for opset in model.opset_import] == [""]
                    assert all(not node.domain for node in model.graph.node), name


def test_what_standard_operators_cannot_say_is_refused() -> None:
    with pytest.raises(OptionError, match="no 8-bit kv_cache; leave out one of the two"):
        preset_of("int4", cache="int8", lowering="portable")
    with pytest.raises(OptionError, match='lowering is "c"; give one of onnxruntime, portable'):
        preset_of("int4", lowering="c")
