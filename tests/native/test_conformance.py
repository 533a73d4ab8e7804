"""The C API draws and answers what Python does, on the same ONNX Runtime library: codes, latents,
pixels, text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from janus_edge.evals import things
from janus_edge.evals.shapes import prompts, questions
from janus_edge.export.bundle.writer import export_bundle
from janus_edge.export.tokenizer.compile import corpus
from janus_edge.model.weights import Checkpoint
from janus_edge.runtime.prompt import Turn
from janus_edge.runtime.requests import AskRequest, ImageRequest
from janus_edge.shapes.scenes import render
from janus_edge.things import scenes as thing_scenes
from tests.native import capi
from tests.native.capi import Api
from tests.native.conftest import Reference, as_image, reference

COUNT = 20
PROMPTS = [wanted.text for _, wanted in prompts("validation", COUNT)]
QUESTIONS = [(render(scene), asked.text) for _, scene, asked in questions("validation", COUNT)]


def same_images(api: Api, bundle: Reference, **settings: Any) -> list[capi.Event]:
    """Draw by both; all images are equal. Return those of C."""
    with api.session(bundle.folder) as session:
        found = api.draw(session, **_c(settings))
    expected = bundle.drawn(ImageRequest(**settings))
    assert len(found) == len(expected) > 0
    for event, image in zip(found, expected, strict=True):
        assert (event.index, event.seed) == (image.index, image.seed)
        assert event.approximate == image.approximate
        if image.codes is not None:
            assert np.array_equal(event.codes, image.codes)
        else:
            assert np.array_equal(event.latent, image.latent.flatten())
        assert np.array_equal(event.pixels, image.pixels)
    return found


def _c(settings: dict[str, Any]) -> dict[str, Any]:
    """Of Python's request as the C struct has them."""
    found = dict(settings)
    given = found.pop("prompt")
    first, *more = (given,) if isinstance(given, str) else given
    found["prompt"] = first.encode()
    if more:
        found["more_prompts"] = [text.encode() for text in more]
    if "solver" in found:
        found["solver"] = found["solver"].encode()
    return found


@pytest.mark.parametrize("index", range(COUNT))
def test_images(api: Api, shipped: Reference, index: int) -> None:
    same_images(api, shipped, prompt=PROMPTS[index], seed=index * 1000)


@pytest.mark.parametrize("index", range(COUNT))
def test_answers(api: Api, shipped: Reference, index: int) -> None:
    pixels, question = QUESTIONS[index]
    with api.session(shipped.folder) as session:
        found = api.ask(session, prompt=question.encode(), input_images=[pixels])
    assert found.decode() == shipped.answer(
        AskRequest(question=question, images=(as_image(pixels),))
    )


def test_the_default_bundle_in_both_languages(api: Api) -> None:
    bundle = reference("tiny-things")
    for _, wanted in list(things.prompts("validation", 24))[::5]:
        same_images(api, bundle, prompt=wanted.text)
    with api.session(bundle.folder) as session:
        for _, scene, asked in list(things.questions("validation", 28))[::6]:
            pixels = thing_scenes.render(scene)
            found = api.ask(session, prompt=asked.text.encode(), input_images=[pixels])
            request = AskRequest(question=asked.text, images=(as_image(pixels),))
            assert found.decode() == bundle.answer(request)


OF_FAMILY: dict[str, list[dict[str, Any]]] = {
    "janus": [
        {"temperature": 0.0},
        {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "guidance_scale": 3.0},
        {"guidance_scale": 1.0, "top_p": 0.5},
        {"reference": True},
        {"num_images": 10},  # more than the decoder has rows for
    ],
    "janusflow": [
        {"num_steps": 5, "solver": "heun", "shift": 2.0, "guidance_scale": 3.0},
        {"num_steps": 6, "solver": "ab2", "guidance_start": 0.1, "guidance_end": 0.8},
        {"guidance_scale": 1.0, "num_steps": 3},
        {"reference": True},
        {"num_images": 3, "num_steps": 2},
    ],
}


@pytest.mark.parametrize("index", range(5))
def test_settings(api: Api, shipped: Reference, index: int) -> None:
    settings = OF_FAMILY[shipped.session.bundle.manifest.family][index]
    same_images(api, shipped, prompt="a green cross", seed=2**40 + 7, **settings)


@pytest.mark.parametrize("num_images", [1, 4])
def test_passes_of_several_positions(api: Api, int4_dir: Path, num_images: int) -> None:
    """Whatever a pass computes, the codes are those of passes of one position, in Python and C."""
    ours = reference(int4_dir)
    with api.session(int4_dir) as session:
        for seed in range(50):
            settings: dict[str, Any] = {"seed": seed, "num_images": num_images}
            one = ours.drawn(ImageRequest(prompt="two stars", parallel=1, **settings))
            for width in (0, 1, 2, 3, 4, 8, 16):
                found = api.draw(session, prompt=b"two stars", parallel=width, **settings)
                for event, image in zip(found, one, strict=True):
                    assert np.array_equal(event.codes, image.codes), (seed, width)


@pytest.mark.parametrize("width", [2, 5, 64])
def test_passes_on_onnxruntime(api: Api, shipped: Reference, width: int) -> None:
    """Several rows one after the other, with other sampling rules."""
    if shipped.session.bundle.manifest.family != "janus":
        pytest.skip("a flow has no codes")
    rules = {"temperature": 1.2, "top_k": 30, "guidance_scale": 2.0}
    same_images(api, shipped, prompt="a cross", seed=9, num_images=3, parallel=width, **rules)


def test_standard_operators(api: Api, tiny_janus: Callable[[str], Path]) -> None:
    """A decoder of these takes several positions of all rows together."""
    bundle = reference(tiny_janus("portable"))
    several: list[dict[str, Any]] = [{}, {"parallel": 5}, {"window": 3}, {"guidance_end": 0.5}]
    for settings in several:
        same_images(api, bundle, prompt="two stars", seed=4, num_images=2, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("num_images", [1, 4])
def test_fifty_seeds_on_onnxruntime(api: Api, num_images: int) -> None:
    """As Python with the same passes; tests/runtime/test_parallel.py compares those with steps."""
    ours = reference("tiny-janus")
    with api.session(ours.folder) as session:
        for seed in range(50):
            for width in (1, 2, 3, 4, 8, 16):
                settings = {"seed": num_images * seed, "num_images": num_images, "parallel": width}
                found = api.draw(session, prompt=b"two stars", **settings)
                expected = ours.drawn(ImageRequest(prompt="two stars", **settings))
                for event, image in zip(found, expected, strict=True):
                    assert np.array_equal(event.codes, image.codes), (seed, width)


def test_several_batches(api: Api, int4_dir: Path) -> None:
    same_images(api, reference(int4_dir), prompt="two stars", num_images=17, seed=5)


def test_several_prompts_at_once(api: Api, shipped: Reference) -> None:
    texts = ("a red circle", "two blue squares above a yellow star", "a cross")
    same_images(api, shipped, prompt=texts, num_images=2, seed=3)


def test_previews_and_progress(api: Api, shipped: Reference) -> None:
    request = ImageRequest(prompt="two stars", previews=True, seed=4)
    expected = shipped.previews(request)
    with api.session(shipped.folder) as session:
        events = api.events(session, prompt=b"two stars", previews=1, seed=4)
    found = [event for event in events if event.kind == capi.PREVIEW]
    assert [event.done for event in found] == [preview.done for preview in expected]
    for event, preview in zip(found, expected, strict=True):
        assert np.array_equal(event.pixels, preview.pixels)
    progress = [event for event in events if event.kind == capi.PROGRESS]
    assert [event.done for event in progress] == list(range(1, progress[0].total + 1))
    assert {event.unit for event in progress} <= {"codes", "steps"}
    assert events[-1].kind == capi.IMAGE
    times = [event.elapsed_ms for event in events]
    assert times == sorted(times) and times[0] > 0


def test_previews_by_the_linear_map(api: Api, int4_dir: Path, flow_int4_dir: Path) -> None:
    """Of bundles without a preview decoder."""
    for folder in (int4_dir, flow_int4_dir):
        ours = reference(folder)
        expected = ours.previews(ImageRequest(prompt="two stars", previews=True, seed=4))
        with api.session(folder) as session:
            events = api.events(session, prompt=b"two stars", previews=1, seed=4)
        found = [event.pixels for event in events if event.kind == capi.PREVIEW]
        assert len(found) == len(expected) > 1
        for pixels, preview in zip(found, expected, strict=True):
            assert np.array_equal(pixels, preview.pixels)


def test_an_image_encoder_is_no_hindrance(api: Api, checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    export_bundle(checkpoint, folder, max_length=96, image_encoder=True, report=lambda line: None)
    same_images(api, reference(folder), prompt="a star", seed=1)


def test_conversations(api: Api, shipped: Reference) -> None:
    """Several images, turns before, and sampled tokens."""
    pixels = [image for image, _ in QUESTIONS[:3]]
    turns = [("what is it?", "a red circle", 2), ("sure?", "yes", 0)]
    history = tuple(Turn(message=m, answer=a, num_images=n) for m, a, n in turns)
    images = tuple(map(as_image, pixels))
    with api.session(shipped.folder) as session:
        for seed in range(4):
            chosen = {"temperature": 1.5, "top_p": 0.9, "seed": seed, "max_tokens": 12}
            found = api.ask(
                session,
                prompt=b"and this one?",
                input_images=pixels,
                history=[(m.encode(), a.encode(), n) for m, a, n in turns],
                **chosen,
            )
            request = AskRequest(question="and this one?", images=images, history=history, **chosen)
            assert found.decode() == shipped.answer(request)


@pytest.mark.parametrize(
    "settings",
    [
        {"window": 8},
        {"window": 3, "num_images": 3},
        {"guidance_end": 0.4, "parallel": 3},
        {"guidance_end": 0.5, "window": 2},
        {"guidance_end": 0.0, "window": 1, "guidance_scale": 3.0},
        {"guidance_scale": 1.0, "window": 4},
        {"guidance_scale": 1.0, "guidance_end": 0.5},  # nothing is guided: exact
    ],
)
def test_approximate_drawing(
    api: Api, shipped: Reference, int4_dir: Path, settings: dict[str, Any]
) -> None:
    if shipped.session.bundle.manifest.family != "janus":
        pytest.skip("a flow has no codes")
    for bundle in (shipped, reference(int4_dir)):
        (says, *_) = same_images(api, bundle, prompt="two stars", seed=5, **settings)
        assert says.approximate == (settings != {"guidance_scale": 1.0, "guidance_end": 0.5})


@pytest.mark.parametrize("context_mb", [256, 0])
def test_what_is_kept(api: Api, shipped: Reference, int4_dir: Path, context_mb: int) -> None:
    """Later questions and drawings of a conversation, in one session or each afresh."""
    image, _ = QUESTIONS[0]
    turns: list[tuple[str, str, int]] = []
    for folder in (shipped.folder, int4_dir):
        ours = reference(folder)
        with api.session(folder, context_mb=context_mb) as session:
            for question in ("what is it?", "what colour is it?", "how many are there?"):
                history = tuple(Turn(message=m, answer=a, num_images=n) for m, a, n in turns)
                given = [(m.encode(), a.encode(), n) for m, a, n in turns]
                before: dict[str, Any] = {"input_images": [image] if turns else []}
                found = api.draw(session, prompt=b"a star", seed=3, history=given, **before)
                images = (as_image(image),)
                request = ImageRequest(
                    prompt="a star", seed=3, history=history, images=images if turns else ()
                )
                (expected,) = ours.drawn(request)
                assert np.array_equal(found[0].pixels, expected.pixels)
                answer = api.ask(
                    session, prompt=question.encode(), input_images=[image], history=given
                )
                asked = AskRequest(question=question, images=images, history=history)
                assert answer.decode() == ours.answer(asked)
                turns.append((question, answer.decode(), 0 if turns else 1))
        turns.clear()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_do_not_depend_on_passes(api: Api, int4_dir: Path, temperature: float) -> None:
    asked: dict[str, Any] = {"temperature": temperature, "max_tokens": 60}
    question = "one one two one one two one one"
    ours = reference(int4_dir)
    with api.session(int4_dir) as session:
        for seed in range(6):
            expected = ours.answer(AskRequest(question=question, seed=seed, parallel=1, **asked))
            for width in (0, 1, 2, 3, 8, 64):
                more = {"seed": seed, "parallel": width, **asked}
                assert api.ask(session, prompt=question.encode(), **more).decode() == expected


@pytest.mark.parametrize("shape", [(5, 90, 3), (64, 64), (30, 47, 4), (200, 61, 3)])
def test_images_of_any_shape(api: Api, shipped: Reference, shape: tuple[int, ...]) -> None:
    """Grey and alpha, wide and tall; sampled, as then every bit of the image counts."""
    pixels = np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)
    chosen: dict[str, Any] = {"temperature": 1.0, "seed": 5, "max_tokens": 16}
    with api.session(shipped.folder) as session:
        found = api.ask(session, prompt=b"what is it?", input_images=[pixels], **chosen)
    request = AskRequest(question="what is it?", images=(as_image(pixels),), **chosen)
    assert found.decode(errors="replace") == shipped.answer(request)


@pytest.mark.parametrize("index", range(5))
def test_our_own_decoder(api: Api, int4_dir: Path, index: int) -> None:
    """In 4 bits, by the same code in C as Python's, where it can run; else the graph's."""
    bundle = reference(int4_dir)
    with api.session(int4_dir) as session:
        assert bool(api.info(session).uses_cpu_kernels) == bundle.session.uses_cpu_kernels
        pixels, question = QUESTIONS[index]
        answer = api.ask(session, prompt=question.encode(), input_images=[pixels])
    same_images(api, bundle, prompt=PROMPTS[index], seed=index, num_images=1 + index)
    asked = AskRequest(question=question, images=(as_image(pixels),))
    assert answer.decode() == bundle.answer(asked)


def test_latents_by_our_own_image_decoder(api: Api, flow_int4_dir: Path) -> None:
    """The autoencoder of a JanusFlow in 8 bits; steps few, as only pixels matter here."""
    bundle = reference(flow_int4_dir)
    component = bundle.session.bundle.manifest.components["image_decoder"]
    assert "steps.1.q.weight.tiles" in component.tensors and component.constants
    same_images(api, bundle, prompt=PROMPTS[0], seed=3, num_images=2, num_steps=3)


def test_tokens(api: Api, shipped: Reference) -> None:
    """Over 10,000 texts (but for zero bytes, which end a C string)."""
    tokenizer: Tokenizer = shipped.session.bundle.encoder.tokenizer
    texts = [text for text in dict.fromkeys(corpus(tokenizer, 12_000)) if "\0" not in text]
    assert len(texts) >= 10_000
    with api.session(shipped.folder) as session:
        for text in texts:
            expected = tokenizer.encode(text, add_special_tokens=False).ids
            assert api.tokenize(session, text.encode()) == expected, text


@pytest.mark.parametrize(
    "raw", [b"a \xff star", b"caf\xe9", b"\xe2\x82\xf0\x9f", b"\xed\xa0\x80 x"]
)
def test_bytes_that_are_no_utf8(api: Api, shipped: Reference, raw: bytes) -> None:
    """What a command line gives is read as C reads the same bytes: prompt, question, history."""
    text = raw.decode("utf-8", "surrogateescape")
    encoder = shipped.session.bundle.encoder
    with api.session(shipped.folder) as session:
        assert api.tokenize(session, raw) == encoder._encode(text)
        (found,) = api.draw(session, prompt=raw, seed=3)
        chosen = {"temperature": 1.0, "seed": 5, "max_tokens": 8}
        said = api.ask(session, prompt=raw, history=[(raw, raw, 0)], **chosen)
    (expected,) = shipped.drawn(ImageRequest(prompt=text, seed=3))
    assert np.array_equal(found.pixels, expected.pixels)
    history = (Turn(message=text, answer=text),)
    assert said.decode() == shipped.answer(AskRequest(question=text, history=history, **chosen))


def test_what_an_engine_says_of_itself(api: Api, shipped: Reference) -> None:
    bundle, sizes = shipped.session.bundle, shipped.session.bundle.manifest.sizes
    with api.session(shipped.folder) as session:
        info = api.info(session)
        assert (info.name.decode(), info.family.decode()) == (
            bundle.manifest.name,
            bundle.manifest.family,
        )
        assert info.sha256.decode() == bundle.sha256
        assert (info.image_size, info.max_length) == (sizes.image_size, sizes.max_length)
        assert info.num_codes == getattr(sizes, "num_codes", 0)
        assert info.num_components == len(bundle.manifest.components)
        assert info.device == b"cpu"
