"""Errors as OpenAI's API shows them."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from janus_edge.runtime.errors import ImageError, JanusEdgeError, OptionError, PromptError
from janus_edge.serve.models import UnknownModel
from janus_edge.serve.worker import LOG, Busy, Stopping

RETRY_S = 5  # when a client may ask again


class Refused(Exception):
    """A request that is refused.

    Attributes:
        status: HTTP status.
        param: Which parameter is wrong; None for none.
        code: A word for programs.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        """Say why."""
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
}


def refused(error: BaseException) -> Refused:
    """Return what a client is told of an error."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, UnknownModel):
        message = f"the model {str(error)[:100]!r} is not served; /v1/models lists those that are"
        return Refused(404, message, "model", "model_not_found")
    if isinstance(error, Busy):
        return Refused(429, "too many requests wait; ask again later", None, "queue_full")
    if isinstance(error, Stopping):
        return Refused(503, "the server stops; ask again later", None, "stopping")
    if isinstance(error, TimeoutError):
        return Refused(504, "the request took longer than the server allows", None, "timeout")
    if isinstance(error, PromptError | OptionError | ImageError):
        return Refused(400, str(error))
    if isinstance(error, JanusEdgeError):
        return Refused(500, str(error), None, "bundle")
    return Refused(500, f"unexpected {type(error).__name__}; the server's log has more")


def noted(path: str, error: BaseException) -> Refused:
    """Return what a client is told of an error, and log one that is the server's own.

    Args:
        path: The request's path.
        error: The error.
    """
    found = refused(error)
    if found.status >= 500 and not isinstance(error, Stopping):
        LOG.error("%s: %s: %s", path, type(error).__name__, error)
    return found


def body_of(error: Refused) -> dict[str, Any]:
    """Return the document of an error."""
    kind = _KINDS.get(error.status, "server_error")
    found = {"message": str(error), "type": kind, "param": error.param, "code": error.code}
    return {"error": found}


def json_response(
    document: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Return a document as ASCII JSON, which holds any text that Python holds."""
    content = json.dumps(document)
    return Response(content, status, headers, media_type="application/json")


def error_response(found: Refused) -> Response:
    """Return the response of an error."""
    headers = {"Retry-After": str(RETRY_S)} if found.status in (429, 503) else {}
    if found.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return json_response(body_of(found), found.status, headers)
