"""OpenAI's own client draws and chats."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
from PIL import Image as PilImage

from janus_edge.runtime.bundle import open_bundle
from janus_edge.runtime.drawn import settings_in
from janus_edge.runtime.everyday import load
from janus_edge.runtime.image_file import read_texts
from tests.serve.conftest import Server


def pixels_of(content: str | None) -> np.ndarray:
    assert content is not None
    return np.asarray(PilImage.open(io.BytesIO(base64.b64decode(content))))


def shown(image: np.ndarray, question: str) -> list[dict[str, object]]:
    file = io.BytesIO()
    PilImage.fromarray(image).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    parts = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": parts}]


@pytest.mark.parametrize("model", ["tiny-janus", "tiny-flow"])
def test_draws_what_the_library_draws(client: openai.OpenAI, model: str, tmp_path) -> None:
    found = client.images.generate(model=model, prompt="a red circle", n=2, extra_body={"seed": 7})
    assert found.data is not None and [each.seed for each in found.data] == [7, 8]
    with load(model, num_threads=1) as own:
        for each in found.data:
            drawn = own.draw("a red circle", seed=each.seed)
            assert np.array_equal(pixels_of(each.b64_json), drawn.pixels)
    (tmp_path / "image.png").write_bytes(base64.b64decode(found.data[1].b64_json or ""))
    assert settings_in(tmp_path / "image.png")["seed"] == 8


def test_an_image_says_whether_it_is_approximate(client: openai.OpenAI) -> None:
    for fast in (False, True):
        words = {"model": "tiny-janus", "prompt": "a star", "extra_body": {"fast": fast}}
        found = client.images.generate(**words).data
        *_, last = client.images.generate(stream=True, partial_images=1, **words)
        assert found is not None and found[0].approximate is last.approximate is fast


@pytest.mark.parametrize("model", ["tiny-janus", "tiny-flow"])
def test_partial_images(client: openai.OpenAI, model: str) -> None:
    """As many as asked for, then the image; the same as without."""
    words = {"model": model, "prompt": "two blue squares", "extra_body": {"seed": 1}}
    *partial, last = client.images.generate(stream=True, partial_images=3, **words)
    assert [each.type for each in partial] == ["image_generation.partial_image"] * 3
    assert [each.partial_image_index for each in partial] == [0, 1, 2]
    assert last.type == "image_generation.completed" and last.usage.output_tokens == 64
    whole = client.images.generate(**words).data
    assert whole is not None and last.b64_json == whole[0].b64_json
    shapes = {pixels_of(each.b64_json).shape for each in (*partial, last)}
    assert shapes == {(64, 64, 3)}
    assert not np.array_equal(pixels_of(partial[0].b64_json), pixels_of(last.b64_json))


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_formats_and_data_urls(client: openai.OpenAI, kind: str, tmp_path) -> None:
    words = {"model": "tiny-janus", "prompt": "a star", "extra_body": {"seed": 1}}
    found = client.images.generate(output_format=kind, response_format="url", **words)
    assert found.data is not None and found.data[0].url is not None
    head, content = found.data[0].url.split(",")
    assert head == f"data:image/{kind};base64"
    path = tmp_path / f"image.{kind}"
    path.write_bytes(base64.b64decode(content))
    assert read_texts(path)["prompt"] == "a star"


def test_many_at_once_are_each_as_alone(server: Server, client: openai.OpenAI) -> None:
    """Drawings and questions that come while others run."""
    prompts = ["a red circle", "two blue squares", "a green star", "three yellow circles"]

    def draw(number: int) -> str | None:
        words = {"prompt": prompts[number % 4], "extra_body": {"seed": number}}
        found = client.images.generate(model="tiny-janus", **words).data
        return found[0].b64_json if found else None

    with load("tiny-janus", num_threads=1) as own:
        alone = [own.draw(prompts[i % 4], seed=i).pixels for i in range(12)]
        answers = [own.ask(image, "what colour is it?") for image in alone]

    def ask(number: int) -> str | None:
        messages = shown(alone[number], "what colour is it?")
        found = client.chat.completions.create(model="tiny-janus", messages=messages)
        return found.choices[0].message.content

    with ThreadPoolExecutor(12) as pool:
        images = [pool.submit(draw, number) for number in range(12)]
        said = [pool.submit(ask, number) for number in range(12)]
        for number in range(12):
            assert np.array_equal(pixels_of(images[number].result()), alone[number])
            assert said[number].result() == answers[number]
    assert server.metric("janus_edge_running") == 0


@pytest.mark.parametrize("model", ["tiny-janus", "tiny-flow"])
def test_chat(client: openai.OpenAI, model: str) -> None:
    """Whole and as a stream; a second question knows the first image."""
    with load(model, num_threads=1) as own:
        image = own.draw("a red circle", seed=7).pixels
        chat = own.chat()
        first = chat.ask(image, "what colour is the circle?")
        second = chat.say("how many circles are there?")
    messages = shown(image, "what colour is the circle?")
    completions = client.chat.completions
    found = completions.create(model=model, messages=messages)
    assert found.choices[0].message.content == first
    assert found.choices[0].finish_reason == "stop" and found.usage.prompt_tokens > 64
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = completions.create(model=model, messages=messages, **options)
    text = "".join(each.choices[0].delta.content or "" for each in chunks)
    assert text.strip() == first and last.usage == found.usage
    assert chunks[-1].choices[0].finish_reason == "stop"
    messages += [
        {"role": "assistant", "content": first},
        {"role": "user", "content": "how many circles are there?"},
    ]
    assert completions.create(model=model, messages=messages).choices[0].message.content == second
    short = completions.create(model=model, messages=messages, max_tokens=1)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 1


def test_an_answer_that_fills_the_context(client: openai.OpenAI) -> None:
    sizes = open_bundle("tiny-flow").manifest.sizes
    found = client.chat.completions.create(
        model="tiny-flow",
        messages=[{"role": "user", "content": "word " * 61}],
        max_tokens=10**6,
        temperature=100.0,
        seed=1,
    )
    assert found.usage is not None and found.usage.total_tokens == sizes.max_length
    assert found.choices[0].finish_reason == "length" and found.model == "tiny-flow"


def test_a_system_message_and_text_alone(client: openai.OpenAI) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "what is a circle?"},
    ]
    found = client.chat.completions.create(model="tiny-janus", messages=messages)
    with load("tiny-janus", num_threads=1) as own:
        assert found.choices[0].message.content == own.ask(None, "Be brief.\n\nwhat is a circle?")


def test_models(client: openai.OpenAI) -> None:
    assert [each.id for each in client.models.list()] == ["tiny-janus", "tiny-flow"]
    assert client.models.retrieve("tiny-flow").object == "model"


@pytest.mark.parametrize(
    ("words", "kind", "says"),
    [
        ({"prompt": "x", "model": "nothing"}, openai.NotFoundError, "/v1/models lists"),
        ({"prompt": ""}, openai.BadRequestError, "the prompt is empty"),
        ({"prompt": "x", "n": 99}, openai.BadRequestError, "n: "),
        ({"prompt": "x", "size": "9x9"}, openai.BadRequestError, "this model draws 64x64"),
        ({"prompt": "x", "extra_body": {"sede": 1}}, openai.BadRequestError, "sede is no parame"),
        ({"prompt": "x", "extra_body": {"seed": -1}}, openai.BadRequestError, "seed: "),
        ({"prompt": "x", "extra_body": {"top_p": 9}}, openai.BadRequestError, "top_p is 9"),
        (
            {"prompt": "x", "extra_body": {"num_steps": 3}},
            openai.BadRequestError,
            "num_steps means",
        ),
        ({"prompt": "x " * 400}, openai.BadRequestError, "tokens long"),
    ],
)
def test_errors_are_openais(
    client: openai.OpenAI, words: dict[str, object], kind: type[openai.APIStatusError], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        client.images.generate(**{"model": "tiny-janus", **words})
    assert caught.value.type == "invalid_request_error"
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "messages: "),
        ([{"role": "user", "content": ""}], "the question is empty"),
        ([{"role": "assistant", "content": "x"}], "must follow a user's"),
        ([{"role": "tool", "content": "x"}], "messages.0.role"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "has no image_url"),
        (
            [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
            "the last message must be a user's",
        ),
        *(
            (
                [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}],
                says,
            )
            for url, says in (
                ("data:image/png;base64,AAAA", "no image|not a|unknown"),
                ("data:image/png;base64,%%%", "is no base 64"),
                ("http://example.com/a.png", "are not fetched unless"),
                ("file:///etc/passwd", "are not fetched unless"),
                ("http://[::1", "are not fetched unless"),
            )
        ),
    ],
)
def test_messages_that_cannot_be_read(
    client: openai.OpenAI, messages: list[dict[str, object]], says: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        client.chat.completions.create(model="tiny-janus", messages=messages)
