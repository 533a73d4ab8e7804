"""What stands before every request: whose it is, and how large it may be.

Source of the checks of Host and Origin: DNS rebinding and cross-site requests reach a server on
loopback from any page that its user opens.
"""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from janus_edge.serve.errors import Refused, error_response
from janus_edge.serve.settings import Settings, is_loopback

_OPEN = ("/", "/health")  # without a token: they tell and do nothing


class Guard:
    """Refuses requests of other pages, without the token, or with too large a body."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        """Stand before an app."""
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, count = Headers(scope=scope), 0
        if (refused := self._refused(scope, headers)) is not None:
            await error_response(refused)(scope, receive, send)
            return

        async def limited() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > self._settings.most_body:
                raise _too_large(self._settings)
            return message

        await self._app(scope, limited, send)

    def _refused(self, scope: Scope, headers: Headers) -> Refused | None:
        settings, host = self._settings, headers.get("host", "")
        if settings.is_local and not is_loopback(_name(host)):
            return Refused(403, "the Host header names another machine; use localhost")
        origin = headers.get("origin")
        if origin is not None and origin not in settings.origins and _place(origin) != host:
            return Refused(403, "pages of this origin are not allowed; see serve --allow-origin")
        if settings.token and scope["path"] not in _OPEN and scope["method"] != "OPTIONS":
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), settings.token.encode()):
                message = "the token is missing or wrong; send it: Authorization: Bearer TOKEN"
                return Refused(401, message, None, "invalid_api_key")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > settings.most_body:
            return _too_large(settings)
        return None


def _too_large(settings: Settings) -> Refused:
    return Refused(413, f"the body is larger than {settings.most_body / 1e6:g} MB; send less")


def _place(origin: str) -> str | None:
    """Return host and port of an Origin header; None if it has none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _name(host: str) -> str:
    """Return a Host header without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
