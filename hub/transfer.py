"""Bytes over HTTP that never exceed what was promised, never wait for ever, and go on when cut.

Requests go through huggingface_hub's client, so proxies, offline mode and the user's token are
its own. The client drops the token where an answer leads to another host.
"""

from __future__ import annotations

import errno
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from huggingface_hub import get_session
from huggingface_hub.errors import HTTPError  # of the HTTP library that this version uses
from huggingface_hub.utils import build_hf_headers

from janus_edge.hub.listing import UnexpectedAnswer

SILENCE_S = 30.0
LEAST_BYTES = 1024  # fewer in SILENCE_S are silence, too
ENOUGH_BYTES = 2**16  # a connection that brings fewer has failed
WAITS_S = (1.0, 2.0, 4.0)  # after connections that failed one after the other
_BUSY = {408, 429, 500, 502, 503, 504}
_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)")


class Silence(Exception):
    """The other side sends nothing, or next to nothing."""


class Refused(Exception):
    """The hub answered with an error. code: its own, "" if it gave none."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"answered {status}")
        self.status = status
        self.code = code


class _Restart(Exception):
    """What is kept is no beginning of what would follow."""


def read_capped(url: str, *, most: int, within_s: float) -> bytes:
    """Return a small answer's body, of at most so many bytes and after at most so long.

    Raises UnexpectedAnswer for a longer one, Silence, Refused, and what the HTTP library raises.
    """
    end = time.monotonic() + within_s
    body = bytearray()
    with _answer(url) as response:
        if response.status_code != HTTPStatus.OK:
            raise _refused(response)
        for chunk in _chunks(response):
            body += chunk
            if len(body) > most:
                raise UnexpectedAnswer(f"sends more than {most / 2**20:.0f} MB as a listing")
            if time.monotonic() > end:
                raise Silence(f"the listing is not complete after {within_s:.0f} s")
    return bytes(body)


def download(
    url: str, part: Path, size: int | None, most: int, came: Callable[[int], object]
) -> None:
    """Append to a file what it lacks; each connection goes on where the one before ended.

    size: bytes that the whole file has; None: as many as the answer announces, and nothing that is
    there already is kept. most: bytes that such a file may have. came: called with the number of
    bytes that each step has brought.
    Gives up when several connections in a row bring next to nothing. What has come stays for the
    next call, unless the other side sends something else than was listed. Raises UnexpectedAnswer,
    Silence, Refused, OSError where the file cannot be written, what the HTTP library raises.
    """
    if size is None or _size(part) > size:
        part.unlink(missing_ok=True)
    part.touch()
    failed = 0
    while size is None or _size(part) < size:
        had = _size(part)
        reason: Exception | None = None
        try:
            size = _append(url, part, had, size, most, came)
        except UnexpectedAnswer:
            part.unlink(missing_ok=True)
            raise
        except _Restart as error:
            part.unlink(missing_ok=True)
            came(-had)
            reason = UnexpectedAnswer(f"{error}")
        except (HTTPError, Silence, Refused) as error:
            if isinstance(error, Refused) and error.status not in _BUSY:
                raise
            reason = error
        failed = 0 if _size(part) - had >= ENOUGH_BYTES else failed + 1
        if failed > len(WAITS_S):
            raise reason or UnexpectedAnswer(f"sends no more than {_size(part)} of {size} bytes")
        if failed and _size(part) != size:
            time.sleep(WAITS_S[failed - 1])


def _append(
    url: str, part: Path, had: int, size: int | None, most: int, came: Callable[[int], object]
) -> int:
    """Write what one connection brings; returns the whole file's size."""
    with _answer(url, had) as response:
        start, total = _beginning(response, had)
        if total is not None and size is not None and total != size:
            raise UnexpectedAnswer(f"sends {total} bytes where {size} were listed")
        size = _fitting(total if size is None else size, most, part, had)
        kept = had - start  # bytes that a whole answer to a request for the rest repeats
        with part.open("ab") as file:
            for chunk in _chunks(response):
                repeated = min(kept, len(chunk))
                kept -= repeated
                room = size - file.tell()
                file.write(chunk[repeated : repeated + room])
                came(min(len(chunk) - repeated, room))
                if len(chunk) - repeated > room:
                    raise UnexpectedAnswer(f"sends more than the {size} bytes of a file")
    return size


def _fitting(size: int | None, most: int, part: Path, had: int) -> int:
    """Return the size of a file that may have it, on a disk that has room for it."""
    if size is None:
        raise UnexpectedAnswer("neither lists nor announces a file's size")
    if size > most:
        raise UnexpectedAnswer(f"has {size} bytes for a file of at most {most}")
    if size - had > shutil.disk_usage(part.parent).free:
        raise OSError(errno.ENOSPC, f"no room for {(size - had) / 1e9:.1f} GB", str(part.parent))
    return size


def _beginning(response: Any, had: int) -> tuple[int, int | None]:
    """Where the answer's body begins in the file, and the file's size if it says so."""
    match response.status_code:
        case HTTPStatus.OK:
            announced = response.headers.get("Content-Length", "")
            return 0, int(announced) if re.fullmatch(r"\d{1,15}", announced) else None
        case HTTPStatus.PARTIAL_CONTENT:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != had:
                raise _Restart("sends another part of a file than was asked for")
            return had, None if found[3] == "*" else int(found[3])
        case HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE if had:
            raise _Restart("has less of a file than it sent before")
    raise _refused(response)


@contextmanager
def _answer(url: str, start: int = 0) -> Iterator[Any]:
    """An answer of which only the head has been read. start: bytes that are not asked for."""
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with get_session().stream("GET", url, headers=headers, timeout=SILENCE_S) as response:
        yield response


def _chunks(response: Any) -> Iterator[bytes]:
    """The body as it comes. Not decompressed: a small body could become an endless one."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnexpectedAnswer("sends a compressed body though none was asked for")
    since, came = time.monotonic(), 0
    for chunk in response.iter_raw():
        came += len(chunk)
        if (now := time.monotonic()) - since > SILENCE_S:
            if came < LEAST_BYTES:
                raise Silence(f"only {came} bytes came in {SILENCE_S:.0f} s")
            since, came = now, 0
        yield chunk


def _refused(response: Any) -> Refused:
    return Refused(response.status_code, response.headers.get("X-Error-Code", ""))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
