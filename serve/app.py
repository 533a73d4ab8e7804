"""The server's app: its routes, and what happens when it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from janus_edge.serve.chatting import chat
from janus_edge.serve.counts import Counts
from janus_edge.serve.drawing import draw
from janus_edge.serve.errors import Refused, error_response, json_response, noted, refused
from janus_edge.serve.guard import Guard
from janus_edge.serve.listening import Gone
from janus_edge.serve.models import Models, UnknownModel
from janus_edge.serve.schema import schema
from janus_edge.serve.settings import Settings
from janus_edge.serve.worker import Stopping

_PAGE = Path(__file__).with_name("page.html")
_BEGAN = int(time.time())


def make_app(models: Models, settings: Settings, counts: Counts) -> Starlette:
    """Return the app.

    Args:
        models: The bundles that it serves.
        settings: What it allows.
        counts: What ``/metrics`` shows.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(models.stop, False)

    cors = Middleware(
        CORSMiddleware, allow_origins=settings.origins, allow_methods=["*"], allow_headers=["*"]
    )
    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/health", _health),
            Route("/metrics", _counted(_metrics)),
            Route("/openapi.json", _counted(_openapi)),
            Route("/v1/models", _counted(_models)),
            Route("/v1/models/{name}", _counted(_model)),
            Route("/v1/images/generations", _counted(draw), methods=["POST"]),
            Route("/v1/chat/completions", _counted(chat), methods=["POST"]),
        ],
        middleware=[cors, Middleware(Guard, settings=settings)],
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )
    app.state.models, app.state.settings, app.state.counts = models, settings, counts
    return app


Handler = Callable[[Request], Awaitable[Response]]


def _counted(handler: Handler) -> Handler:
    """Return a handler whose requests are counted, and whose errors are answers."""

    async def handle(request: Request) -> Response:
        try:
            response = await handler(request)
        except (Gone, ClientDisconnect):
            response = Response(status_code=499)  # nobody reads it
        except asyncio.CancelledError:  # the server stops, and has waited long enough
            response = error_response(refused(Stopping()))
        except Exception as error:
            response = error_response(noted(request.url.path, error))
        request.app.state.counts.request(request.scope["route"].path, response.status_code)
        return response

    return handle


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method[:20]} {request.url.path[:100]}"
    found = {404: f"{what}: no such path", 405: f"{what}: not a method of this path"}
    message = found.get(error.status_code, str(error.detail))
    response = error_response(Refused(error.status_code, message))
    response.headers.update(error.headers or {})
    return response


async def _page(request: Request) -> Response:
    policy = "default-src 'none'; img-src data: blob:; connect-src 'self'; "
    policy += "style-src 'unsafe-inline'; script-src 'unsafe-inline'; form-action 'none'; "
    policy += "base-uri 'none'; frame-ancestors 'none'"
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}
    return FileResponse(_PAGE, media_type="text/html", headers=headers)


async def _health(request: Request) -> Response:
    return json_response({"status": "ok"})


async def _metrics(request: Request) -> Response:
    state = request.app.state
    for name, worker in state.models.open.items():
        state.counts.load(name, worker.num_waiting, worker.num_running)
    return Response(state.counts.text(), media_type="text/plain; version=0.0.4")


async def _openapi(request: Request) -> Response:
    return json_response(schema())


async def _models(request: Request) -> Response:
    data = [_listed(name) for name in request.app.state.models.names]
    return json_response({"object": "list", "data": data})


async def _model(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in request.app.state.models.names:
        raise UnknownModel(name)
    return json_response(_listed(name))


def _listed(name: str) -> dict[str, str | int]:
    return {"id": name, "object": "model", "created": _BEGAN, "owned_by": "janus-edge"}
