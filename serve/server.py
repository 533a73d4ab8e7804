"""Run the app with uvicorn until a signal stops it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette

from janus_edge.runtime.errors import OptionError
from janus_edge.serve.worker import LOG

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


ANSWER_S = 10  # for clients to read that their request was not finished


class _Server(uvicorn.Server):
    """Stops at the first signal, when the requests are finished; at the second at once."""

    def __init__(self, config: uvicorn.Config, grace_s: float, end: Callable[[], int]) -> None:
        """Take what ends the requests that last longer than the grace."""
        super().__init__(config)
        self._grace_s, self._end = grace_s, end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests finish for a while; then tell the clients of the others."""
        if running := len(self.server_state.tasks):
            LOG.warning(
                "stopping; running requests (%d) have %g s; a second Ctrl-C ends them at once",
                running,
                self._grace_s,
            )
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._grace_s, loop.run_in_executor, None, self._tell)
        await super().shutdown(sockets)
        timer.cancel()

    def _tell(self) -> None:
        if lost := self._end():
            LOG.warning("stopped; requests that were not finished: %d", lost)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while it runs; an end that was asked for is no failure."""
        before = {each: signal.signal(each, self.handle_exit) for each in _SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def run(
    app: Starlette,
    host: str,
    port: int,
    grace_s: float,
    *,
    begin: Callable[[], object],
    end: Callable[[], int],
) -> None:
    """Serve until a signal.

    Args:
        app: The app.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        grace_s: How long requests may go on after the signal, s.
        begin: Called when clients can connect, before the first is answered.
        end: Ends all requests; returns how many were not finished.

    Raises:
        OptionError: The address cannot be listened on, or the app did not start.
        JanusEdgeError: What ``begin`` raises.
    """
    with _listening(host, port) as listener:
        config = uvicorn.Config(
            app,
            timeout_graceful_shutdown=int(grace_s) + ANSWER_S,
            access_log=False,
            log_level="warning",
            server_header=False,
        )
        server = _Server(config, grace_s, end)
        name = f"[{host}]" if ":" in host else host
        print(f"http://{name}:{listener.getsockname()[1]}", flush=True)
        begin()
        server.run(sockets=[listener])
    if not server.started:
        raise OptionError("the server did not start; the lines above say why")


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; clients that come before the server has started wait."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "no such host"
        raise OptionError(f"{host}:{port}: {why}; give another --host or --port") from None
