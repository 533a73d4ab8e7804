"""``janus_edge.load``: two lines draw an image, and ask about it."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

import janus_edge
from janus_edge import AskRequest, DrawnImage, ImageRequest, Preview

PROMPT = "three red circles"


@pytest.fixture
def model(bundle_dir: Path) -> janus_edge.Model:
    return janus_edge.load(bundle_dir, num_threads=1)


def drawn_by_events(model: janus_edge.Model, **settings: object) -> np.ndarray:
    request = ImageRequest(prompt=PROMPT, **settings)  # type: ignore[arg-type]
    events = model.session.generate_image(request)
    return next(e.pixels for e in events if isinstance(e, janus_edge.Image))


def test_two_lines(model: janus_edge.Model, tmp_path: Path) -> None:
    image = model.draw(PROMPT, seed=7)
    assert isinstance(image, DrawnImage) and (image.prompt, image.seed) == (PROMPT, 7)
    assert np.array_equal(image.pixels, drawn_by_events(model, seed=7))
    assert image.settings["temperature"] == 0.9 and image.model == model.name
    assert image.image.size == image.pixels.shape[1::-1] and image.image.mode == "RGB"
    assert np.array_equal(np.asarray(image), image.pixels)
    asked = AskRequest(question="how many?", images=(image.event,), max_tokens=5)
    events = model.session.ask(asked)
    wanted = "".join(e.text for e in events if isinstance(e, janus_edge.Text)).strip()
    assert model.ask(image, "how many?", max_tokens=5) == wanted
    assert model.ask([image.image], "how many?", max_tokens=5) == wanted
    assert "pixels" not in repr(image) and PROMPT in repr(image)


def test_a_notebook_shows_it_and_files_keep_its_settings(
    model: janus_edge.Model, tmp_path: Path
) -> None:
    image = model.draw(PROMPT, temperature=0.5)
    shown = PilImage.open(io.BytesIO(image._repr_png_()))
    assert np.array_equal(np.asarray(shown), image.pixels)
    image.save(tmp_path / "a.png")
    image.save(str(tmp_path / "a.webp"))
    with PilImage.open(tmp_path / "a.png") as kept:
        assert kept.text["prompt"] == PROMPT and kept.text["temperature"] == "0.5"
    with PilImage.open(tmp_path / "a.webp") as kept:
        assert np.array_equal(np.asarray(kept), image.pixels)
    with pytest.raises(janus_edge.OptionError, match=r"\.gif is not written"):
        image.save(tmp_path / "a.gif")


def test_a_random_seed_draws_again(model: janus_edge.Model) -> None:
    images = [model.draw(PROMPT, seed=None) for _ in range(2)]
    assert images[0].seed != images[1].seed
    again = model.draw(PROMPT, seed=images[1].seed)
    assert np.array_equal(again.pixels, images[1].pixels)


def test_streams(model: janus_edge.Model) -> None:
    with model.draw_stream(PROMPT) as stream:
        *previews, image = stream
    assert previews and all(isinstance(each, Preview) for each in previews)
    assert isinstance(image, DrawnImage)
    assert np.array_equal(image.pixels, model.draw(PROMPT).pixels)
    pieces = list(model.ask_stream(image, "what?", max_tokens=6))
    assert "".join(pieces).strip() == model.ask(image, "what?", max_tokens=6)


def test_async(model: janus_edge.Model) -> None:
    async def work() -> tuple[list[object], DrawnImage, str, str]:
        ticks: list[float] = []

        async def tick() -> None:
            while True:
                ticks.append(0.0)
                await asyncio.sleep(0)

        other = asyncio.create_task(tick())
        seen = [item async for item in model.draw_stream(PROMPT)]
        image, said = await model.draw_async(PROMPT), await model.ask_async(None, "hello")
        pieces = [piece async for piece in model.ask_stream(None, "hello")]
        other.cancel()
        assert len(ticks) > 10  # the loop went on meanwhile
        return seen, image, said, "".join(pieces).strip()

    seen, image, said, streamed = asyncio.run(work())
    assert isinstance(seen[-1], DrawnImage) and len(seen) > 1
    assert np.array_equal(seen[-1].pixels, image.pixels)
    assert said == streamed == model.ask(None, "hello")


def test_a_stream_that_is_left_ends_its_request(model: janus_edge.Model) -> None:
    async def work() -> None:
        async with model.draw_stream(PROMPT) as stream:
            async for _ in stream:
                break
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    asyncio.run(work())
    stream = model.draw_stream(PROMPT)
    next(stream)
    stream.close()
    assert list(stream) == []
    assert model.draw(PROMPT).seed == 0  # the session is free again


def test_a_chat_keeps_what_was_said_and_drawn(model: janus_edge.Model) -> None:
    chat = model.chat()
    first = chat.say("hello", max_tokens=4)
    image = chat.draw(PROMPT)
    said = chat.say("what is it?", max_tokens=4)
    assert first and chat.turns[0].message == "hello"
    own = janus_edge.Conversation(model.session)
    list(own.ask("hello", max_tokens=4))
    drawn = [e for e in own.draw(PROMPT) if isinstance(e, janus_edge.Image)]
    assert np.array_equal(drawn[0].pixels, image.pixels)
    pieces = own.ask("what is it?", max_tokens=4)
    assert said == "".join(e.text for e in pieces if isinstance(e, janus_edge.Text)).strip()
    assert "".join(chat.say_stream("and now?", max_tokens=4)) is not None
    assert chat.turns[-1].num_images in (0, 1)


@pytest.mark.parametrize("name", ["model", "chat"])
def test_another_thread_ends_a_stream(model: janus_edge.Model, name: str) -> None:
    """Close a stream while another thread reads it, as a cancelled task does."""
    speaker = model if name == "model" else model.chat()
    for stream in (speaker.draw_stream("a star"), speaker.ask_stream(None, "how many?")):
        began, failed = threading.Event(), []

        def read(stream: Any = stream, began: Any = began, failed: Any = failed) -> None:
            try:
                for _ in stream:
                    began.set()
                    time.sleep(0.001)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        assert began.wait(60)
        stream.close()
        thread.join(60)
        assert not failed and not thread.is_alive()


def test_a_closed_model_is_free_though_its_chat_lives(bundle_dir: Path) -> None:
    model = janus_edge.load(bundle_dir, num_threads=1)
    chat, session = model.chat(), weakref.ref(model.session)
    chat.ask(None, "how many?", max_tokens=2)
    model.close()
    gc.collect()
    assert session() is None
    with pytest.raises(janus_edge.JanusEdgeError, match="closed"):
        chat.say("and now?")


def test_a_closed_model_says_so(model: janus_edge.Model) -> None:
    chat = model.chat()
    with model:
        assert "closed" not in repr(model)
    assert "closed" in repr(model)
    for call in (lambda: model.draw("x"), lambda: chat.say("x"), lambda: model.ask(None, "x")):
        with pytest.raises(janus_edge.OptionError, match="the model is closed; load it again"):
            call()
    model.close()  # again


def test_threads_wait_for_each_other(model: janus_edge.Model) -> None:
    wanted = [model.draw(PROMPT, seed=seed).pixels for seed in range(3)]
    found: dict[int, np.ndarray] = {}

    def work(seed: int) -> None:
        found[seed] = model.draw(PROMPT, seed=seed).pixels

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[seed], wanted[seed]) for seed in range(3))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.draw(""), "prompt"),
        (lambda m: m.draw("x", seed=-1), "seed is -1"),
        (lambda m: m.draw("x", colour="red"), "colour"),
        (lambda m: m.draw("x", num_steps=3), "num_steps means nothing"),
        (lambda m: m.ask(3, "x"), r"images\[0\] is 3"),
        (lambda m: m.ask(None, "x", max_tokens=0), "max_tokens is 0"),
        (lambda m: m.ask("none.png", "x"), "none.png"),
    ],
)
def test_mistakes_are_one_line(call, says: str, model: janus_edge.Model) -> None:
    with pytest.raises(janus_edge.JanusEdgeError, match=says) as caught:
        call(model)
    assert "\n" not in str(caught.value)


def test_the_log(bundle_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="janus_edge"):
        janus_edge.load(bundle_dir, num_threads=1).draw(PROMPT, seed=3)
    said = [record.getMessage() for record in caplog.records if record.name == "janus_edge"]
    assert said[0].startswith("loaded ") and said[1].startswith("drew seed 3 in ")


def test_names_are_listed(model: janus_edge.Model) -> None:
    assert {"load", "Model", "DrawnImage", "Chat", "Stream"} <= set(dir(janus_edge))
    assert {"draw", "draw_stream", "draw_async", "ask", "chat", "close"} <= set(dir(model))
