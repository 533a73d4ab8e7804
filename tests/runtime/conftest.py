"""Small decoders in int4, exported once."""

from __future__ import annotations

import pytest

from janus_edge.export.decoder import decoder_components
from janus_edge.export.entries import graph_entry
from janus_edge.export.graph import save_graph
from janus_edge.export.quantize import PRESETS
from janus_edge.export.sizes import sizes_of
from janus_edge.runtime import manifest
from tests.runtime.native_models import LENGTH, SIZES, Made, checkpoint_of


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
