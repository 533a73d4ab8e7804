"""Images of a conversation: data URLs, and addresses on hosts that were allowed by name."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from threading import BoundedSemaphore, Event, Thread, Timer
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from janus_edge.runtime.errors import ImageError
from janus_edge.serve.errors import Refused
from janus_edge.serve.worker import Busy, Stopping

MOST_BYTES = 20 * 10**6
TIMEOUT_S = 20.0  # of an address, with all that its host sends
MOST_FETCHES = 16  # at once, of all clients
_LOOK_S = 0.2  # between two looks at whether the server stops

_room = BoundedSemaphore(MOST_FETCHES)


async def content_of(
    url: str, name: str, hosts: tuple[str, ...], seconds: float, is_stopping: Callable[[], bool]
) -> bytes:
    """Return the bytes that a URL means.

    A host that is slow or silent holds a thread of its own, no other request.

    Args:
        url: A data URL, or an http(s) address.
        name: What errors call it.
        hosts: Hosts that may be asked.
        seconds: The longest time that a host may take, at most TIMEOUT_S.
        is_stopping: Whether the server stops.

    Raises:
        Refused: The URL is none that may be read.
        ImageError: The bytes did not come.
        Busy: Too many are fetched.
        Stopping: The server stops.
    """
    if url.startswith("data:"):
        return _of_data(url, name)
    parts = _allowed(url, name, hosts)
    if not _room.acquire(blocking=False):
        raise Busy
    found: Future[bytes] = Future()
    found.set_running_or_notify_cancel()
    limit_s = max(0.1, min(seconds, TIMEOUT_S))
    Thread(target=_fetch, args=(parts, name, limit_s, found), daemon=True).start()
    fetched = asyncio.wrap_future(found)
    try:
        while not (await asyncio.wait({fetched}, timeout=_LOOK_S))[0]:
            if is_stopping():
                raise Stopping
        return fetched.result()
    finally:
        fetched.cancel()  # if nobody waits, its error is nobody's


def _of_data(url: str, name: str) -> bytes:
    head, comma, content = url.partition(",")
    if not comma:
        raise Refused(400, f"{name}: a data URL without content")
    if not head.endswith(";base64"):
        return unquote_to_bytes(content)
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, f"{name}: its data URL is no base 64") from None


def _allowed(url: str, name: str, hosts: tuple[str, ...]) -> SplitResult:
    """Return the parts of an address that may be fetched."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname in hosts:
            return parts
    raise Refused(
        400,
        f"{name}: addresses are not fetched unless the server allows their host "
        "(serve --allow-images-from); send the image as a data URL",
    )


def _fetch(parts: SplitResult, name: str, seconds: float, found: Future[bytes]) -> None:
    try:
        found.set_result(_fetched(parts, name, seconds))
    except BaseException as error:
        found.set_exception(error)
    finally:
        _room.release()


def _fetched(parts: SplitResult, name: str, seconds: float) -> bytes:
    """Return what a host sends. Other addresses, to which it may point, are not followed."""
    failed, is_late = f"{name}: {parts.hostname} did not send it", Event()
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    query = f"?{parts.query}" if parts.query else ""
    try:
        with contextlib.closing(kind(parts.hostname or "", parts.port, timeout=seconds)) as host:
            host.connect()
            with _cut_after(seconds, host.sock, is_late):
                host.request("GET", (parts.path or "/") + query, headers={"Accept": "image/*"})
                answer = host.getresponse()
                raw = answer.read(MOST_BYTES + 1)
    except (OSError, HTTPException, ValueError) as error:
        why = f"it took longer than {seconds:.0f} s" if is_late.is_set() else error
        raise ImageError(f"{failed}: {why}; check the address") from None
    if is_late.is_set():
        raise ImageError(f"{failed}: it took longer than {seconds:.0f} s; check the address")
    if answer.status != 200:
        raise ImageError(f"{failed}: it answers {answer.status}; check the address")
    if len(raw) > MOST_BYTES:
        raise ImageError(f"{name}: larger than {MOST_BYTES // 10**6} MB; send a smaller one")
    return raw


@contextlib.contextmanager
def _cut_after(seconds: float, connection: socket.socket, is_late: Event) -> Iterator[None]:
    """End a connection that takes longer in all, however often its host sends a byte."""

    def cut() -> None:
        is_late.set()
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    timer = Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
