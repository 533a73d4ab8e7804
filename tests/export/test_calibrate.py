"""Keys and values of 8 bits: scales, the engine against PyTorch, and what is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from janus_edge.export.bundle.writer import export_bundle, export_folder
from janus_edge.export.graph import decoder
from janus_edge.export.graph.builder import save_graph
from janus_edge.export.graph.component import relative_error
from janus_edge.export.graph.decoder import decoder_components
from janus_edge.export.graph.parity import ParityError, measure_parity
from janus_edge.export.quantization import quantize
from janus_edge.export.quantization.calibrate import CacheScales, QuantizedCache, cache_scales
from janus_edge.export.quantization.presets import PRESETS, Preset
from janus_edge.export.quantization.quantize import QuantSpec, pack
from janus_edge.model.weights import Checkpoint, load_checkpoint, loaded
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.events import Image, Text
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session


@pytest.fixture(params=["checkpoint", "flow_checkpoint"])
def either(request: pytest.FixtureRequest) -> Checkpoint:
    """A Janus, then a JanusFlow."""
    found: Checkpoint = request.getfixturevalue(request.param)
    return found


def test_every_channel_has_a_scale_of_its_own(either: Checkpoint) -> None:
    config = either.model.config.language
    scales = cache_scales(either)
    assert len(scales) == config.num_hidden_layers
    for own in scales:
        for part in (own.keys_G1E, own.values_G1E):
            assert part.shape == (config.num_key_value_heads, 1, config.head_dim)
            assert (part > 0).all() and part.unique().numel() > config.head_dim


def test_lazy_weights_give_the_same_scales(flow_dir: Path, flow_checkpoint: Checkpoint) -> None:
    lazy = cache_scales(load_checkpoint(flow_dir, lazy=True))
    for one, other in zip(lazy, cache_scales(flow_checkpoint), strict=True):
        assert torch.equal(one.keys_G1E, other.keys_G1E)
        assert torch.equal(one.values_G1E, other.values_G1E)


def test_samples_are_what_is_calibrated_with(checkpoint: Checkpoint) -> None:
    count, sizes = checkpoint.model.config.num_codes, checkpoint.model.config.codebook.size
    samples = np.arange(2 * count).reshape(2, count) % sizes
    own = cache_scales(dataclasses.replace(checkpoint, samples=samples.astype("u2")))
    assert not torch.equal(own[0].keys_G1E, cache_scales(checkpoint)[0].keys_G1E)


def test_keys_fit_at_any_position(checkpoint: Checkpoint) -> None:
    """Positions turn pairs of channels, so both get the scale of the longer of what was seen."""
    for own in cache_scales(checkpoint):
        one, other = own.keys_G1E.chunk(2, dim=-1)
        assert torch.equal(one, other)


def test_a_rounded_cache_holds_whole_levels() -> None:
    scales = CacheScales(keys_G1E=torch.full((1, 1, 4), 0.5), values_G1E=torch.full((1, 1, 4), 2.0))
    cache = QuantizedCache(torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4), scales)
    at = torch.full((1, 1, 1, 4), 1)
    new = torch.tensor([0.6, -0.3, 400.0, -400.0]).view(1, 1, 1, 4)
    keys, values = cache.write(at, new, new)
    assert keys[0, 0, 1].tolist() == [0.5, -0.5, 63.5, -64.0]
    assert values[0, 0, 1].tolist() == [0.0, 0.0, 254.0, -256.0]
    assert not keys[0, 0, [0, 2]].any()


@pytest.mark.parametrize("preset", [pytest.param("fp32", marks=pytest.mark.slow), "int4"])
def test_bundles_with_8_bit_caches_draw_and_answer(
    either: Checkpoint, tmp_path: Path, preset: str
) -> None:
    export_bundle(
        either,
        tmp_path / "b",
        max_length=96,
        quantize=preset,
        kv_cache="int8",
        report=lambda line: None,
    )
    bundle = open_bundle(tmp_path / "b")
    assert bundle.manifest.cache_type == "int8"
    session = Session(bundle, num_threads=1)
    drawn = session.generate_image(ImageRequest(prompt="a star", num_images=2))
    first, second = (event for event in drawn if isinstance(event, Image))
    assert not np.array_equal(first.pixels, second.pixels)
    asked = session.ask(AskRequest(question="how many?", max_tokens=3))
    assert all(isinstance(event.text, str) for event in asked if isinstance(event, Text))


def test_the_velocity_hardly_changes(flow_dir: Path, flow_bundle_dir: Path, tmp_path: Path) -> None:
    """A flow writes an image's positions anew in every step, behind the prompt's."""
    export_folder(
        flow_dir, tmp_path / "b", kv_cache="int8", max_length=96, report=lambda line: None
    )
    latents = []
    for folder in (flow_bundle_dir, tmp_path / "b"):
        session = Session(open_bundle(folder), num_threads=1)
        request = ImageRequest(prompt="a star", num_steps=2, guidance_scale=2.0)
        latents += [e.latent for e in session.generate_image(request) if isinstance(e, Image)]
    assert 0 < relative_error(latents[1], latents[0]) < 0.03


def test_wrong_scales_fail_the_export(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (part,) = decoder_components(checkpoint, 96, Preset(cache="int8"))
    examples = part.examples()
    assert examples[1]["past_k_0"].dtype == np.int8
    exact, low = part.references(examples), part.references(examples, fake_quantize=True)
    proto = part.build(None)
    save_graph(proto, tmp_path / "right.onnx")
    measure_parity(part, tmp_path / "right.onnx", "load", examples, exact, low)
    (scale,) = [i for i in proto.graph.initializer if i.name == "v_1.scale"]
    scale.raw_data = (np.frombuffer(scale.raw_data, np.float32) * 1.5).tobytes()
    save_graph(proto, tmp_path / "wrong.onnx")
    with pytest.raises(ParityError, match="decoder: "):
        measure_parity(part, tmp_path / "wrong.onnx", "load", examples, exact, low)


def test_each_layer_is_read_and_quantized_once(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calibration, graph and both references share what they need of a layer."""
    read: list[str] = []
    packed: list[tuple[int, ...]] = []

    @contextmanager
    def loading(given: Checkpoint, *prefixes: str) -> Iterator[None]:
        read.extend(prefixes)
        with loaded(given, *prefixes):
            yield

    def packing(weight: np.ndarray, spec: QuantSpec) -> tuple[np.ndarray, np.ndarray]:
        packed.append(weight.shape)
        return pack(weight, spec)

    monkeypatch.setattr(decoder, "loaded", loading)
    monkeypatch.setattr(quantize, "pack", packing)
    (part,) = decoder_components(checkpoint, 96, PRESETS["int4"])
    examples = part.examples()
    part.build(None)
    part.references(examples)
    part.references(examples, fake_quantize=True)
    layers = checkpoint.model.config.language.num_hidden_layers
    assert read == [f"language_model.model.{p}." for p in (*_layers(layers), "norm")]
    assert len(packed) == 7 * layers


def _layers(count: int) -> list[str]:
    return [f"layers.{index}" for index in range(count)]
