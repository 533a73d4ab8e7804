"""``POST /v1/images/generations``: images, whole or as they sharpen."""

from __future__ import annotations

import asyncio
import base64
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from janus_edge.runtime.drawn import texts_of
from janus_edge.runtime.events import Event, Image, Preview
from janus_edge.runtime.image_file import check_fit, encode
from janus_edge.runtime.requests import ImageRequest, random_seed
from janus_edge.serve.bodies import ImageBody, read_body
from janus_edge.serve.counts import Counts
from janus_edge.serve.errors import Refused, json_response
from janus_edge.serve.listening import (
    QUIET,
    EventStream,
    Listener,
    each_event,
    ends_of,
    listen,
    sent,
)
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
        self._due = {index: self._places() for index in range(self.request.num_images)}

    def _places(self) -> list[float]:
        """Return after how many codes or steps a partial image is due: spread over the image."""
        session, count = self.worker.session, self.partial
        settings = session.image_settings(self.request)
        steps = getattr(settings, "num_steps", None) or session.bundle.manifest.sizes.num_drawn
        return [steps * (i + 1) / (count + 1) for i in range(count)]

    def wants(self, event: Event) -> bool:
        """Return whether a client is told of an event. The previews that are due are."""
        if not isinstance(event, Preview):
            return isinstance(event, Image)
        due = self._due[event.index]
        is_due = bool(due) and event.done >= due[0]
        while due and event.done >= due[0]:
            due.pop(0)
        return is_due

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
    state, ends = request.app.state, ends_of(request)
    async with asyncio.timeout_at(ends):
        body = await read_body(request, ImageBody)
        worker = await asyncio.wrap_future(state.models.opened(body.model))
        drawing = await asyncio.to_thread(_Drawing, body, worker)
    listener = await listen(request, worker, drawing.request, ends, drawing.wants)
    if body.stream:
        return EventStream(request.url.path, listener, _stream(state.counts, drawing, listener))
    found: dict[int, dict[str, Any]] = {}
    with closing(listener):
        while (event := await listener.next()) is not None:
            if isinstance(event, Image):
                found[event.index] = await drawing.image(event)
    state.counts.images(len(found))
    document = {"created": int(time.time()), "data": [found[i] for i in sorted(found)]}
    return json_response(document | drawing.about() | {"usage": drawing.usage(len(found))})


async def _stream(counts: Counts, drawing: _Drawing, listener: Listener) -> AsyncIterator[str]:
    """Yield OpenAI's events: partial images, then each image."""
    sent_of: Counter[int] = Counter()  # partial images by image
    async for event in each_event(listener):
        at = {"created_at": int(time.time())}
        if event is None:
            yield QUIET
        elif isinstance(event, Image):
            counts.images(1)
            found = {"index": event.index} | await drawing.image(event)
            yield _sent(drawing, "completed", at | {"usage": drawing.usage(1)} | found)
        elif isinstance(event, Preview):
            content = await drawing.encoded(event.pixels, {})
            found = {"index": event.index, "b64_json": content}
            yield _sent(
                drawing, "partial_image", at | {"partial_image_index": sent_of[event.index]} | found
            )
            sent_of[event.index] += 1


def _sent(drawing: _Drawing, name: str, document: dict[str, Any]) -> str:
    kind = f"image_generation.{name}"
    return sent({"type": kind, **drawing.about(), **document}, kind)
