"""The OpenAPI description of the server, made from the bodies that it takes."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema

from janus_edge.serve.bodies import ChatBody, ImageBody

_AT = "#/components/schemas/"
_ERRORS = {
    "400": "The request is wrong; the message says where.",
    "401": "The token is missing or wrong.",
    "403": "The page or host is not allowed.",
    "404": "The model is not served.",
    "413": "The body is too large.",
    "429": "Too many requests wait.",
    "500": "The server's fault.",
    "503": "The server stops.",
    "504": "The request took too long.",
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def schema() -> dict[str, Any]:
    """Return the description."""
    bodies, definitions = models_json_schema(
        [(ImageBody, "validation"), (ChatBody, "validation")], ref_template=_AT + "{model}"
    )
    images, chat = (bodies[body, "validation"] for body in (ImageBody, ChatBody))
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "janus-edge", "version": version("janus-edge")},
        "paths": {
            "/v1/images/generations": {"post": _posted("Draw images.", images)},
            "/v1/chat/completions": {"post": _posted("Answer about images.", chat)},
            "/v1/models": {"get": _got("List the models.")},
            "/v1/models/{name}": {"get": _got("Return a model.") | {"parameters": [name]}},
            "/health": {"get": _got("Say that the server runs.")},
        },
        "components": {"schemas": definitions["$defs"] | {"Error": _ERROR}},
    }


def _posted(summary: str, body: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": body}}
    return _got(summary, stream=True) | {"requestBody": {"required": True, "content": content}}


def _got(summary: str, *, stream: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {}}
    content |= {"text/event-stream": {}} if stream else {}
    error = {"application/json": {"schema": {"$ref": _AT + "Error"}}}
    responses = {code: {"description": text, "content": error} for code, text in _ERRORS.items()}
    return {
        "summary": summary,
        "responses": {"200": {"description": "Done.", "content": content}} | responses,
    }
