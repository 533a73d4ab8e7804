"""``POST /v1/chat/completions``: answers about images, whole or as they are decoded."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from itertools import islice
from typing import Any

from PIL import Image as PilImage
from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import Response

from janus_edge.runtime.events import Text
from janus_edge.runtime.image import decode_noted, padded
from janus_edge.runtime.prompt import Turn
from janus_edge.runtime.requests import AskRequest
from janus_edge.runtime.sequences import Answer
from janus_edge.runtime.sizes import Sizes
from janus_edge.serve.bodies import ChatBody, Message, read_body
from janus_edge.serve.counts import Counts
from janus_edge.serve.errors import Refused, json_response
from janus_edge.serve.image_parts import content_of
from janus_edge.serve.listening import (
    QUIET,
    EventStream,
    Listener,
    each_event,
    ends_of,
    listen,
    sent,
)
from janus_edge.serve.worker import Job, Worker

MOST_TOKENS = 512  # of an answer whose length the client does not limit


async def chat(request: Request) -> Response:
    """Answer; see OpenAI's reference for the answer, docs/serving.md for what is read."""
    state, ends = request.app.state, ends_of(request)
    async with asyncio.timeout_at(ends):
        body = await read_body(request, ChatBody)
        _check(body)
        worker = await asyncio.wrap_future(state.models.opened(body.model))
        shown = await _images(body, worker.session.bundle.manifest.sizes, state, ends)
        work = await asyncio.to_thread(_request_of, body, shown)
    frame = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": body.model or state.models.names[0],
    }
    listener = await listen(request, worker, work, ends)
    if body.stream:
        events = _stream(state.counts, worker, listener, body, frame)
        return EventStream(request.url.path, listener, events)
    text = ""
    with closing(listener):
        while (event := await listener.next()) is not None:
            text += event.text if isinstance(event, Text) else ""
    usage, reason = _ended(listener.job, worker, text)
    state.counts.tokens(usage["completion_tokens"])
    message = {"role": "assistant", "content": text.strip(), "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
    kind = {"object": "chat.completion"}
    return json_response(frame | kind | {"choices": [choice], "usage": usage})


async def _stream(
    counts: Counts, worker: Worker, listener: Listener, body: ChatBody, frame: dict[str, Any]
) -> AsyncIterator[str]:
    """Yield OpenAI's chunks."""
    text, frame = "", frame | {"object": "chat.completion.chunk"}

    def chunk(delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return sent(frame | {"choices": [choice]})

    yield chunk({"role": "assistant", "content": ""})
    async for event in each_event(listener):
        if event is None:
            yield QUIET
        elif isinstance(event, Text):
            text += event.text
            yield chunk({"content": event.text})
    usage, reason = _ended(listener.job, worker, text)
    counts.tokens(usage["completion_tokens"])
    yield chunk({}, reason)
    if (body.stream_options or {}).get("include_usage"):
        yield sent(frame | {"choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


def _ended(job: Job, worker: Worker, text: str) -> tuple[dict[str, int], str]:
    """Return how many tokens were read and decoded, and why the answer ended."""
    encoder, request = worker.session.bundle.encoder, job.request
    sizes = worker.session.bundle.manifest.sizes
    assert isinstance(request, AskRequest)
    if job.sequences and isinstance(answer := job.sequences[0], Answer):
        read, made = answer.num_prompt, answer.num_tokens
    else:
        read = len(encoder.conversation(request.turns, sizes.num_image_tokens))
        made = len(encoder.tokenizer.encode(text, add_special_tokens=False).ids)
    reason = "length" if made >= min(request.max_tokens, sizes.max_length - read) else "stop"
    usage = {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}
    return usage, reason


async def _images(
    body: ChatBody, sizes: Sizes, state: State, ends: float
) -> Iterator[PilImage.Image]:
    """Return the images of a conversation in order, each as small as the model sees it.

    Raises:
        Refused: There are more than the model can see, or a URL is none that may be read.
        ImageError: An image cannot be read.
        Busy: Too many addresses are fetched.
        Stopping: The server stops.
    """
    named = [
        (f"messages[{number}]'s image", part.image_url.url)
        for number, message in enumerate(body.messages)
        for part in (message.content if isinstance(message.content, list) else ())
        if part.type == "image_url" and part.image_url is not None
    ]
    if (tokens := len(named) * sizes.num_image_tokens) > sizes.max_length:
        message = f"{len(named)} images are {tokens} tokens, and the model's context has "
        raise Refused(400, f"{message}{sizes.max_length}; send fewer", "messages")
    found, hosts = [], state.settings.image_hosts
    for name, url in named:
        left_s = ends - asyncio.get_running_loop().time()
        raw = await content_of(url, name, hosts, left_s, lambda: state.models.is_stopping)
        found.append(await asyncio.to_thread(_small, raw, name, sizes.image_size))
    return iter(found)


def _small(raw: bytes, name: str, side: int) -> PilImage.Image:
    return padded(decode_noted(raw, name)[0], side)


def _check(body: ChatBody) -> None:
    """Raise Refused for what is asked and cannot be done."""
    for name in ("frequency_penalty", "presence_penalty"):
        if getattr(body, name):
            raise Refused(400, f"{name} is not supported; leave it out or set it to 0", name)
    if (body.response_format or {}).get("type", "text") != "text":
        raise Refused(400, "answers are plain text; leave response_format out", "response_format")


def _request_of(body: ChatBody, images: Iterator[PilImage.Image]) -> AskRequest:
    """Return the question of a conversation.

    Raises:
        Refused: The messages are not in an order that a model can read.
    """
    turns, shown = _turns(body.messages, images)
    *history, last = turns
    given = {name: getattr(body, name) for name in ("temperature", "top_p", "seed")}
    limit = body.max_completion_tokens or body.max_tokens or MOST_TOKENS
    return AskRequest(
        question=last.message,
        images=shown,
        history=tuple(history),
        max_tokens=min(limit, 2**31 - 1),
        **{name: value for name, value in given.items() if value is not None},
    )


def _turns(
    messages: list[Message], images: Iterator[PilImage.Image]
) -> tuple[list[Turn], list[PilImage.Image]]:
    """Return the turns of messages and all their images.

    What the system says comes before the first message, as the models have no place for it.
    """
    turns: list[Turn] = []
    found: list[PilImage.Image] = []
    before: list[str] = []  # messages since the last answer
    count = 0
    for number, message in enumerate(messages):
        text, num_images = _content(message, f"messages[{number}]")
        if message.role != "assistant":
            before.append(text)
            found, count = found + list(islice(images, num_images)), count + num_images
            continue
        if not before or num_images:
            raise Refused(400, "an assistant's message must follow a user's", f"messages[{number}]")
        turns.append(Turn(message="\n\n".join(before), num_images=count, answer=text))
        before, count = [], 0
    if not before or messages[-1].role != "user":
        raise Refused(400, "the last message must be a user's", "messages")
    return [*turns, Turn(message="\n\n".join(before), num_images=count)], found


def _content(message: Message, where: str) -> tuple[str, int]:
    """Return the text of a message and how many images it has."""
    if message.content is None or isinstance(message.content, str):
        return message.content or "", 0
    texts, num_images = [], 0
    for part in message.content:
        if part.type == "text" and part.text is not None:
            texts.append(part.text)
        elif part.type == "image_url" and part.image_url is not None:
            num_images += 1
        else:
            raise Refused(400, f"a part of type {part.type} has no {part.type}", where)
    return "\n".join(texts), num_images
