"""A bundle with a second copy of its decoder, for many positions at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus_edge.export.bundle.writer import export_folder
from janus_edge.export.graph.component import relative_error
from janus_edge.export.quantization.presets import preset_of
from janus_edge.runtime import resources
from janus_edge.runtime.bundle import Bundle, open_bundle
from janus_edge.runtime.errors import OptionError
from janus_edge.runtime.events import Image, Text
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


def _drawn(session: Session) -> Image:
    request = ImageRequest(prompt="a star")
    (image,) = (e for e in session.generate_image(request) if isinstance(e, Image))
    return image


def _answer(session: Session) -> str:
    request = AskRequest(question="how many?", max_tokens=3)
    return "".join(event.text for event in session.ask(request) if isinstance(event, Text))


def test_questions_and_velocities_go_through_the_copy(bundle: Bundle) -> None:
    kinds = [bundle.manifest.components[name] for name in ("decoder", PREFILL)]
    assert [(kind.weights, kind.quantization) for kind in kinds] == [
        ("int4", "blocks of 128"),
        ("int8", "per-channel"),
    ]
    session = Session(bundle, num_threads=1)
    _drawn(session)
    # the other copy stays closed: codes are steps, a flow has none
    opened = {"janus": "decoder", "janusflow": PREFILL}[bundle.manifest.family]
    assert {"decoder", PREFILL} & set(session.component_ms) == {opened}
    _answer(session)
    assert session.component_ms[PREFILL] > 0
    assert session.component_ms["decoder"] > 0  # the answer's steps


def test_without_room_the_decoder_does_both(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    both = Session(bundle, num_threads=1)
    answer = _answer(both)
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 1 kB\n", encoding="utf-8")
    monkeypatch.setattr(resources, "_MEMINFO", tmp_path / "meminfo")
    one = Session(bundle, num_threads=1)
    assert _answer(one)[0] == answer[0]
    latent = _drawn(one).latent
    assert PREFILL not in one.component_ms
    if latent is not None:
        assert 0 < relative_error(_drawn(both).latent, latent) < 0.2


def test_a_system_that_does_not_say_has_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert resources.free_memory() > 0
    monkeypatch.setattr(resources, "_MEMINFO", tmp_path / "none")
    assert resources.free_memory() == float("inf")


def test_other_copies_are_refused() -> None:
    with pytest.raises(OptionError, match='prefill is "int4"; give one of int8'):
        preset_of("int4", prefill="int4")
