"""The bodies that the server takes: OpenAI's, and what this family of models has besides.

Parameters of OpenAI that mean nothing here are taken as long as they ask for nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from janus_edge.runtime.json_text import parse_json
from janus_edge.serve.errors import Refused

MOST_IMAGES = 10  # of a request, as OpenAI's
MOST_PREVIEWS = 64
MOST_MESSAGES = 1000

Body = TypeVar("Body", bound=BaseModel)
Seed = Annotated[int, Field(ge=0, le=2**62)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ImageBody(_Body):
    """Of ``POST /v1/images/generations``."""

    prompt: str
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=MOST_IMAGES)] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=MOST_PREVIEWS)] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    size: str | None = None
    seed: Seed | None = None
    guidance_scale: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    num_steps: int | None = None
    solver: str | None = None
    shift: float | None = None
    guidance_start: float | None = None
    guidance_end: float | None = None
    window: int | None = None
    fast: bool | None = None
    reference: bool | None = None
    quality: str | None = None
    style: str | None = None
    moderation: str | None = None
    user: str | None = None
    background: Literal["auto", "opaque"] | None = None
    output_compression: int | None = None


class ImageUrl(_Body):
    """Where an image is."""

    url: str
    detail: str | None = None


class Part(_Body):
    """A part of a message."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None


class Message(BaseModel):
    """A message of a conversation; clients send more than is read here."""

    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None


class ChatBody(_Body):
    """Of ``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    model: str | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: Seed | None = None
    n: Literal[1] | None = None
    stop: Annotated[list[str], Field(max_length=0)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: Literal[False] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    reasoning_effort: str | None = None
    user: str | None = None


async def read_body(request: Request, kind: type[Body]) -> Body:
    """Return the body of a request.

    Args:
        request: The request.
        kind: What it should be.

    Raises:
        Refused: It is no such body.
    """
    raw = await request.body()
    try:
        document = parse_json(raw)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is no JSON document, or has a key twice; send one") from None
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise _refused(error) from None
    except RecursionError:
        raise Refused(400, "the body is nested too deeply") from None


_WORDS = {  # for the library's own words, by kind of fault
    "too_long": "is not supported, or too long; leave it out or shorten it",
    "too_short": "is empty; give one at least",
    "model_type": "is no JSON object; send one",
    "model_attributes_type": "is no JSON object; send one",
    "dict_type": "is no JSON object; send one",
}


def _refused(error: ValidationError) -> Refused:
    """Return the first fault of a body in one line."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"])) or "the body"
    if first["type"] == "extra_forbidden":
        return Refused(400, f"{where[:100]} is no parameter; leave it out", where[:100])
    what = _WORDS.get(first["type"]) or f"{first['msg'][0].lower()}{first['msg'][1:]}"
    return Refused(400, f"{where[:100]}: {what}", where[:100] if first["loc"] else None)
