"""The CPU kernels: what they compute, and when they are used."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from janus_edge.export.bundle.entries import graph_entry
from janus_edge.export.bundle.sizes import sizes_of
from janus_edge.export.bundle.writer import export_bundle
from janus_edge.export.graph.builder import save_graph
from janus_edge.export.graph.component import Feeds, relative_error
from janus_edge.export.graph.components import graph_components
from janus_edge.export.quantization.presets import PRESETS
from janus_edge.runtime import manifest
from janus_edge.runtime.backends import cpu_head, cpu_kernels, cpu_library
from janus_edge.runtime.backends.cpu_decoder import CpuDecoder
from janus_edge.runtime.backends.cpu_head import CpuHead
from janus_edge.runtime.backends.onnxruntime import load_graph
from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.errors import BundleError, OptionError
from janus_edge.runtime.events import Image, Text
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.runtime.session import Session
from janus_edge.runtime.tiles import initializers
from tests.runtime.cpu_models import LENGTH, Made, checkpoint_of, needs_library


@needs_library
@pytest.mark.parametrize(
    ("rows", "past", "time", "gap"),
    [
        (2, 0, 30, 0),  # a prompt
        (2, 30, 1, 0),  # a step
        (1, 131, 1, 0),
        (3, 70, 1, 0),
        (7, 33, 1, 0),
        (12, 20, 1, 0),  # a step of many rows
        (1, 0, 3, 0),  # few rows of several positions
        (1, 0, 131, 0),  # a long prompt
        (2, 40, 77, 9),  # several positions after a gap
    ],
)
def test_it_computes_what_pytorch_does(
    made: Made, rows: int, past: int, time: int, gap: int
) -> None:
    rng, config = np.random.default_rng(0), made.checkpoint.model.config.language
    feeds: Feeds = {
        "embeds": made.embeds(rows, time),
        "positions": np.tile(gap + np.arange(past, past + time), (rows, 1)),
        "lengths": np.full(rows, past + time),
    }
    shape = (rows, config.num_key_value_heads, LENGTH, config.head_dim)
    for index in range(config.num_hidden_layers):
        for part in "kv":
            cache = np.rint(rng.standard_normal(shape, np.float32) * 20).astype(np.int8)
            cache[:, :, past:] = 0
            feeds[f"past_{part}_{index}"] = cache
    (fake_quantized,) = made.component.references([feeds], fake_quantize=True)
    for name, found, expected in zip(
        made.component.outputs, made.open().run(feeds), fake_quantized, strict=True
    ):
        assert relative_error(found, expected) < 0.03, name  # two steps: values between two levels


@needs_library
def test_a_prompt_is_the_same_behind_padding_and_with_any_threads(made: Made) -> None:
    embeds, lengths = made.embeds(2, 40), np.array([40, 21])
    together = made.decoder(2)
    states = together.prefill(embeds, lengths)
    next_states = together.step(made.embeds(2, 1, start=50)[:, 0])
    for row, length in enumerate(lengths):
        alone = made.decoder(1, num_threads=3 - row)
        state = alone.prefill(embeds[row : row + 1, :length], np.array([length]))
        assert np.array_equal(state[0], states[row])
        step = alone.step(made.embeds(2, 1, start=50)[row])
        assert np.array_equal(step[0], next_states[row])


@needs_library
def test_looking_ahead_keeps_nothing(made: Made) -> None:
    decoder, ahead = made.decoder(2), made.embeds(2, 13, start=60)
    decoder.prefill(made.embeds(2, 40), np.array([40, 21]))
    positions = np.array([[45], [26]]) + np.arange(13)
    first = decoder.look_ahead(ahead, positions).copy()
    decoder.look_ahead(-ahead, positions)
    assert np.array_equal(decoder.look_ahead(ahead, positions), first)


@needs_library
def test_caches_may_move(made: Made) -> None:
    decoder = made.decoder(1)
    decoder.prefill(made.embeds(1, 9), np.array([9]))
    inputs = {
        "embeds": made.embeds(1, 1),
        "positions": np.array([[9]]),
        "lengths": np.array([10]),
        **decoder._cache.past,
    }
    before = {name: cache.copy() for name, cache in decoder._cache.past.items()}
    hidden, *caches = made.open().run(inputs)
    assert all(np.array_equal(before[name], decoder._cache.past[name]) for name in before)
    assert np.array_equal(hidden[:, 0], decoder.step(inputs["embeds"][:, 0]))
    assert all(map(np.array_equal, caches, decoder._cache.present.values()))


@needs_library
def test_a_run_can_be_stopped(made: Made) -> None:
    """By a flag that another thread sets, as native/core does where a job is cancelled."""
    engine, flag = made.open(), ctypes.c_int(1)
    stop_by = engine._library.je_decoder_stop_by
    stop_by.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    stop_by(engine._decoder, ctypes.byref(flag))
    inputs = {
        "embeds": made.embeds(1, 5),
        "positions": np.arange(5)[None],
        "lengths": np.array([5]),
        **made.decoder(1)._cache.past,
    }
    with pytest.raises(MemoryError):  # all that Python knows of a run that did not end
        engine.run(inputs)
    flag.value = 0
    stopped, never = engine.run(inputs)[0], made.open().run(inputs)[0]
    assert np.array_equal(stopped, never)


@needs_library
def test_nothing_outside_the_caches_is_touched(made: Made) -> None:
    decoder = made.decoder(1)
    decoder.prefill(made.embeds(1, LENGTH), np.array([LENGTH]))
    with pytest.raises(ValueError, match=f"lengths to {LENGTH + 1} of {LENGTH}"):
        decoder.step(made.embeds(1, 1)[:, 0])


def _gone(entry: manifest.Component, name: str) -> dict[str, manifest.Stored]:
    return {key: value for key, value in entry.tensors.items() if key != name}


def _beyond(entry: manifest.Component, name: str) -> dict[str, manifest.Stored]:
    return {**entry.tensors, name: entry.tensors[name].model_copy(update={"offset": 2**40})}


@needs_library
@pytest.mark.parametrize(
    ("damage", "words"), [(_gone, "no layers.0.up_proj"), (_beyond, "is not inside")]
)
def test_wrong_places_are_refused(
    made: Made,
    damage: Callable[[manifest.Component, str], dict[str, manifest.Stored]],
    words: str,
) -> None:
    tensors = damage(made.entry, "layers.0.up_proj.weight.tiles")
    entry = made.entry.model_copy(update={"tensors": tensors})
    with pytest.raises(BundleError, match=rf"decoder\.data: .*{words}"):
        CpuDecoder(made.folder, entry, made.sizes, cpu_library.Pool(1))


@needs_library
@pytest.mark.parametrize("name", ["image_head", "text_head"])
def test_heads_compute_what_the_graph_does(name: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_of("heads of 128")
    components = graph_components(checkpoint, LENGTH, PRESETS["int4"])
    (component,) = (each for each in components if each.name == name)
    path, data = tmp_path / "head.onnx", tmp_path / "head.data"
    proto = component.build(data)
    save_graph(proto, path)
    entry = manifest.Component(**graph_entry(component, proto, path, data, "int8"))
    sizes = sizes_of(checkpoint.model, LENGTH)
    assert cpu_head.runs(entry, sizes)
    rng = np.random.default_rng(0)
    graph = load_graph(path, 1, weights=initializers(entry.tensors, data))
    for rows, num_threads in ((1, 1), (2, 3), (7, 2), (16, 2)):  # groups of four, two and one
        hidden = rng.standard_normal((rows, sizes.hidden_size), np.float32)
        ours = CpuHead(tmp_path, entry, sizes, cpu_library.Pool(num_threads))
        (found,), (expected,) = ours.run({"hidden": hidden}), graph.run({"hidden": hidden})
        # between the two products an input that lies between two levels may take the other one
        assert relative_error(found, expected) < (1e-5 if name == "text_head" else 2e-3)
        (exact,) = component.references([{"hidden": hidden}], fake_quantize=True)[0]
        assert relative_error(found, exact) < 0.01

    gone = {key: value for key, value in entry.tensors.items() if not key.startswith("logits.")}
    damaged = entry.model_copy(update={"tensors": gone})
    with pytest.raises(BundleError, match=r"head\.data: sizes do not fit together"):
        CpuHead(tmp_path, damaged, sizes, cpu_library.Pool(1))


@needs_library
def test_too_many_threads_are_an_option_error() -> None:
    with pytest.raises(OptionError, match=r"num_threads is 1000000: .* give fewer"):
        cpu_library.Pool(1_000_000)


def test_the_library_is_there_where_it_can_be() -> None:
    flags = Path("/proc/cpuinfo")
    if (
        not flags.exists()
        or "avx512_vnni" not in flags.read_text(encoding="utf-8")
        or not shutil.which("cc")
    ):
        pytest.skip("another processor, or no C compiler")
    assert cpu_library.library() is not None


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = checkpoint_of("odd widths")
    folder = tmp_path_factory.mktemp("int4") / "b"
    export_bundle(checkpoint, folder, max_length=96, quantize="int4", report=lambda line: None)
    return folder


@pytest.mark.parametrize("ours", [pytest.param(True, marks=needs_library), False])
def test_a_bundle_draws_and_answers_with_and_without_it(
    bundle_folder: Path, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not ours:
        monkeypatch.setattr(cpu_kernels, "library", lambda: None)
    session = Session(open_bundle(bundle_folder), num_threads=1)
    assert session.uses_cpu_kernels == ours
    images = list(session.generate_image(ImageRequest(prompt="a star", num_images=2)))
    assert sum(isinstance(event, Image) for event in images) == 2
    asked = session.ask(AskRequest(question="how many?", max_tokens=3))
    assert any(isinstance(event, Text) for event in asked)


def test_other_storages_go_through_the_graph(bundle_dir: Path) -> None:
    assert not Session(open_bundle(bundle_dir), num_threads=1).uses_cpu_kernels
