"""A bundle with a second copy of its decoder, for many positions at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from janus_edge.export.bundle import export_folder
from janus_edge.export.component import relative_error
from janus_edge.export.quantize import preset_of
from janus_edge.runtime import memory
from janus_edge.runtime.bundle import Bundle, open_bundle
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.events import Image
from janus_edge.runtime.manifest import PREFILL
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session


@pytest.fixture(scope="module", params=["checkpoint_dir", "flow_dir"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With both copies and an 8-bit cache that they share: of a Janus, then of a JanusFlow."""
    folder = tmp_path_factory.mktemp("prefill") / "both"
    given = request.getfixturevalue(request.param)
    options = {"kv_cache": "int8", "prefill": "int8", "max_length": 96}
    export_folder(given, folder, quantize="int4", report=lambda line: None, **options)
    return open_bundle(folder)


def _drawn(bundle: Bundle) -> tuple[Image, Session]:
    session = Session(bundle, num_threads=1)
    (image,) = (
        e for e in session.generate_image(ImageRequest(prompt="a star")) if isinstance(e, Image)
    )
    return image, session


def test_prompts_go_through_the_copy(bundle: Bundle) -> None:
    kinds = [bundle.manifest.components[name] for name in ("decoder", PREFILL)]
    assert [(kind.weights, kind.quantization) for kind in kinds] == [
        ("int4", "blocks of 64"),
        ("int8", "outputs"),
    ]
    _, session = _drawn(bundle)
    assert session.component_ms[PREFILL] > 0
    list(session.ask(AskRequest(question="how many?", max_tokens=3)))
    assert session.component_ms["decoder"] > 0  # the answer's steps


def test_without_room_the_decoder_does_both(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    both, _ = _drawn(bundle)
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 1 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    one, session = _drawn(bundle)
    assert PREFILL not in session.component_ms
    if one.latent is None:
        assert one.codes is not None and np.mean(one.codes == both.codes) > 0.5
    else:
        assert 0 < relative_error(both.latent, one.latent) < 0.2


def test_a_system_that_does_not_say_has_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert memory.free_memory() > 0
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    assert memory.free_memory() == float("inf")


def test_other_copies_are_refused() -> None:
    with pytest.raises(OptionError, match='prefill is "int4"; give one of int8'):
        preset_of("int4", prefill="int4")
