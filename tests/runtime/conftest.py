"""Small decoders in int4, and bundles for a fake GPU, exported once."""

from __future__ import annotations

import pytest

from janus_edge.export.bundle.entries import graph_entry
from janus_edge.export.bundle.sizes import sizes_of
from janus_edge.export.graph.builder import save_graph
from janus_edge.export.graph.decoder import decoder_components
from janus_edge.export.quantization.presets import PRESETS
from janus_edge.runtime import manifest
from janus_edge.runtime.bundle import Bundle
from tests.runtime.cpu_models import LENGTH, SIZES, Made, checkpoint_of
from tests.runtime.fake_machine import Machine, export_graphs


@pytest.fixture(scope="session", params=SIZES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    checkpoint = checkpoint_of(request.param)
    (component,) = decoder_components(checkpoint, LENGTH, PRESETS["int4"])
    folder = tmp_path_factory.mktemp("decoder")
    path, data = folder / "decoder.onnx", folder / "decoder.data"
    proto = component.build(data)
    save_graph(proto, path)
    entry = graph_entry(component, proto, path, data, "int4")
    return Made(
        checkpoint=checkpoint,
        component=component,
        entry=manifest.Component(**entry),
        sizes=sizes_of(checkpoint.model, LENGTH),
        folder=folder,
    )


@pytest.fixture(scope="session", params=["checkpoint", "flow_checkpoint"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """See ``export_graphs``."""
    folder = tmp_path_factory.mktemp("device") / request.param
    return export_graphs(request.getfixturevalue(request.param), folder)


@pytest.fixture
def machine(exported: Bundle, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A fake GPU."""
    return Machine(monkeypatch, exported)
