"""``POST /v1/chat/completions``: answers about images, whole or as they are decoded."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from PIL import Image as PilImage
from starlette.requests import Request
from starlette.responses import Response

from janus_edge.runtime.events import Text
from janus_edge.runtime.prompt import Turn
from janus_edge.runtime.requests import AskRequest
from janus_edge.runtime.sequences import Answer
from janus_edge.serve.bodies import ChatBody, Message, read_body
from janus_edge.serve.errors import Refused, json_response
from janus_edge.serve.image_parts import fetch_image
from janus_edge.serve.listening import QUIET, each_event, event_stream, listening, sent
from janus_edge.serve.worker import Job, Worker

MOST_TOKENS = 512  # of an answer whose length the client does not limit


async def chat(request: Request) -> Response:
    """Answer; see OpenAI's reference for the answer, docs/serving.md for what is read."""
    state, body = request.app.state, await read_body(request, ChatBody)
    _check(body)
    worker = await asyncio.to_thread(state.models.worker, body.model)
    work = await asyncio.to_thread(_request_of, body, state.settings.image_hosts)
    frame = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": worker.session.bundle.manifest.name,
    }
    if body.stream:
        return event_stream(_stream(request, worker, work, body, frame))
    text, timeout_s = "", state.settings.timeout_s
    async with listening(request, worker, work, timeout_s) as (job, listener):
        while (event := await listener.next()) is not None:
            text += event.text if isinstance(event, Text) else ""
    usage, reason = _ended(job, worker, text)
    state.counts.tokens(usage["completion_tokens"])
    message = {"role": "assistant", "content": text.strip(), "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
    kind = {"object": "chat.completion"}
    return json_response(frame | kind | {"choices": [choice], "usage": usage})


async def _stream(
    request: Request, worker: Worker, work: AskRequest, body: ChatBody, frame: dict[str, Any]
) -> AsyncIterator[str]:
    """Yield OpenAI's chunks."""
    state, text = request.app.state, ""
    frame = frame | {"object": "chat.completion.chunk"}

    def chunk(delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return sent(frame | {"choices": [choice]})

    async with listening(request, worker, work, state.settings.timeout_s) as (job, listener):
        yield chunk({"role": "assistant", "content": ""})
        async for event in each_event(listener):
            if event is None:
                yield QUIET
            elif isinstance(event, Text):
                text += event.text
                yield chunk({"content": event.text})
    usage, reason = _ended(job, worker, text)
    state.counts.tokens(usage["completion_tokens"])
    yield chunk({}, reason)
    if (body.stream_options or {}).get("include_usage"):
        yield sent(frame | {"choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


def _ended(job: Job, worker: Worker, text: str) -> tuple[dict[str, int], str]:
    """Return how many tokens were read and decoded, and why the answer ended."""
    encoder, request = worker.session.bundle.encoder, job.request
    assert isinstance(request, AskRequest)
    if job.sequences and isinstance(answer := job.sequences[0], Answer):
        read, made = answer.num_prompt, answer.num_tokens
    else:
        sizes = worker.session.bundle.manifest.sizes
        read = len(encoder.conversation(request.turns, sizes.num_image_tokens))
        made = len(encoder.tokenizer.encode(text, add_special_tokens=False).ids)
    reason = "length" if made >= request.max_tokens else "stop"
    usage = {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}
    return usage, reason


def _check(body: ChatBody) -> None:
    """Raise Refused for what is asked and cannot be done."""
    for name in ("frequency_penalty", "presence_penalty"):
        if getattr(body, name):
            raise Refused(400, f"{name} is not supported; leave it out or set it to 0", name)
    if (body.response_format or {}).get("type", "text") != "text":
        raise Refused(400, "answers are plain text; leave response_format out", "response_format")


def _request_of(body: ChatBody, hosts: tuple[str, ...]) -> AskRequest:
    """Return the question of a conversation.

    Raises:
        Refused: The messages are not in an order that a model can read.
        ImageError: An image cannot be read.
    """
    turns, images = _turns(body.messages, hosts)
    *history, last = turns
    given = {name: getattr(body, name) for name in ("temperature", "top_p", "seed")}
    limit = body.max_completion_tokens or body.max_tokens or MOST_TOKENS
    return AskRequest(
        question=last.message,
        images=images,
        history=tuple(history),
        max_tokens=min(limit, 2**31 - 1),
        **{name: value for name, value in given.items() if value is not None},
    )


def _turns(
    messages: list[Message], hosts: tuple[str, ...]
) -> tuple[list[Turn], list[PilImage.Image]]:
    """Return the turns of messages and all their images.

    What the system says comes before the first message, as the models have no place for it.
    """
    turns: list[Turn] = []
    images: list[PilImage.Image] = []
    before: list[str] = []  # messages since the last answer
    count = 0
    for number, message in enumerate(messages):
        text, shown = _content(message, f"messages[{number}]", hosts)
        if message.role != "assistant":
            before.append(text)
            images, count = images + shown, count + len(shown)
            continue
        if not before or shown:
            raise Refused(400, "an assistant's message must follow a user's", f"messages[{number}]")
        turns.append(Turn(message="\n\n".join(before), num_images=count, answer=text))
        before, count = [], 0
    if not before or messages[-1].role != "user":
        raise Refused(400, "the last message must be a user's", "messages")
    return [*turns, Turn(message="\n\n".join(before), num_images=count)], images


def _content(
    message: Message, where: str, hosts: tuple[str, ...]
) -> tuple[str, list[PilImage.Image]]:
    """Return the text of a message and its images."""
    if message.content is None or isinstance(message.content, str):
        return message.content or "", []
    texts, images = [], []
    for part in message.content:
        if part.type == "text" and part.text is not None:
            texts.append(part.text)
        elif part.type == "image_url" and part.image_url is not None:
            images.append(fetch_image(part.image_url.url, f"{where}'s image", hosts))
        else:
            raise Refused(400, f"a part of type {part.type} has no {part.type}", where)
    return "\n".join(texts), images
