"""``POST /v1/images/generations``: images, whole or as they sharpen."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from janus_edge.runtime.drawn import texts_of
from janus_edge.runtime.events import Event, Image, Preview
from janus_edge.runtime.image_file import check_fit, encode
from janus_edge.runtime.requests import ImageRequest, random_seed
from janus_edge.serve.bodies import ImageBody, read_body
from janus_edge.serve.errors import Refused, json_response
from janus_edge.serve.listening import QUIET, each_event, event_stream, listening, sent
from janus_edge.serve.worker import Worker

_KINDS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
_OURS = (
    *("guidance_scale", "temperature", "top_k", "top_p", "num_steps", "solver", "shift"),
    *("guidance_start", "guidance_end", "window", "fast", "reference"),
)


class _Drawing:
    """A request for images, checked."""

    def __init__(self, body: ImageBody, worker: Worker) -> None:
        """Raise Refused or JanusEdgeError for what cannot be drawn."""
        self.body, self.worker = body, worker
        self.kind = _KINDS[body.output_format or "png"]
        side = worker.session.bundle.manifest.sizes.image_size
        self.size = f"{side}x{side}"
        if body.size not in (None, "auto", self.size):
            message = f"size is {body.size[:40]!r}; this model draws {self.size}"
            raise Refused(400, message, "size")
        self.partial = (body.partial_images or 0) if body.stream else 0
        seed = random_seed() if body.seed is None else body.seed
        given = {name: getattr(body, name) for name in _OURS if getattr(body, name) is not None}
        self.request = ImageRequest(
            prompt=body.prompt,
            seed=seed,
            num_images=body.n or 1,
            previews=self.partial > 0,
            **given,
        )
        check_fit(self.kind, texts_of(worker.session, self.request, 0, seed))

    def about(self) -> dict[str, Any]:
        """Return what OpenAI's answers say of every image."""
        return {
            "size": self.size,
            "quality": "auto",
            "background": "opaque",
            "output_format": self.body.output_format or "png",
        }

    async def encoded(self, pixels: np.ndarray, texts: dict[str, str]) -> str:
        """Return an image's file in base 64."""
        made = await asyncio.to_thread(encode, pixels, self.kind, texts)
        return base64.b64encode(made).decode()

    async def image(self, event: Image) -> dict[str, Any]:
        """Return a finished image as the answer has it."""
        texts = texts_of(self.worker.session, self.request, event.index, event.seed)
        content = await self.encoded(event.pixels, texts)
        found: dict[str, Any] = {"seed": event.seed, "approximate": event.approximate}
        if self.body.response_format == "url":
            kind = self.body.output_format or "png"
            return found | {"url": f"data:image/{kind};base64,{content}"}
        return found | {"b64_json": content}

    def usage(self, images: int) -> dict[str, Any]:
        """Return how many tokens were read and codes drawn."""
        session = self.worker.session
        read = len(session.bundle.encoder.generation(self.body.prompt, (), 0))
        drawn = images * session.bundle.manifest.sizes.num_drawn
        details = {"text_tokens": read, "image_tokens": 0}
        return {
            "input_tokens": read,
            "output_tokens": drawn,
            "total_tokens": read + drawn,
            "input_tokens_details": details,
        }


async def draw(request: Request) -> Response:
    """Draw; see OpenAI's reference for the answer, docs/serving.md for what is added."""
    state, body = request.app.state, await read_body(request, ImageBody)
    worker = await asyncio.to_thread(state.models.worker, body.model)
    drawing = await asyncio.to_thread(_Drawing, body, worker)
    if body.stream:
        return event_stream(_stream(request, drawing))
    found: dict[int, dict[str, Any]] = {}
    timeout_s = state.settings.timeout_s
    async with listening(request, worker, drawing.request, timeout_s) as (_, listener):
        while (event := await listener.next()) is not None:
            if isinstance(event, Image):
                found[event.index] = await drawing.image(event)
    state.counts.images(len(found))
    document = {"created": int(time.time()), "data": [found[i] for i in sorted(found)]}
    return json_response(document | drawing.about() | {"usage": drawing.usage(len(found))})


async def _stream(request: Request, drawing: _Drawing) -> AsyncIterator[str]:
    """Yield OpenAI's events: partial images, then each image."""
    state = request.app.state
    due = {index: list(_places(drawing)) for index in range(drawing.request.num_images)}
    timeout_s = state.settings.timeout_s
    async with listening(request, drawing.worker, drawing.request, timeout_s) as (_, listener):
        async for event in each_event(listener):
            if event is None:
                yield QUIET
                continue
            name, document = await _event(drawing, event, due)
            if name:
                state.counts.images(int(name == "completed"))
                kind = f"image_generation.{name}"
                yield sent({"type": kind, **drawing.about(), **document}, kind)


async def _event(
    drawing: _Drawing, event: Event, due: dict[int, list[float]]
) -> tuple[str, dict[str, Any]]:
    """Return the name and the content of what a client is told of an event; "" for nothing."""
    at = {"created_at": int(time.time())}
    if isinstance(event, Image):
        usage = {"usage": drawing.usage(1)}
        return "completed", at | usage | {"index": event.index} | await drawing.image(event)
    if not isinstance(event, Preview) or not due[event.index] or event.done < due[event.index][0]:
        return "", {}
    while due[event.index] and event.done >= due[event.index][0]:
        due[event.index].pop(0)
    number = drawing.partial - len(due[event.index]) - 1
    content = await drawing.encoded(event.pixels, {})
    found = {"partial_image_index": number, "b64_json": content, "index": event.index}
    return "partial_image", at | found


def _places(drawing: _Drawing) -> list[float]:
    """Return after how many codes or steps a partial image is due: spread over the image."""
    session, count = drawing.worker.session, drawing.partial
    settings = session.image_settings(drawing.request)
    steps = getattr(settings, "num_steps", None) or session.bundle.manifest.sizes.num_drawn
    return [steps * (i + 1) / (count + 1) for i in range(count)]
