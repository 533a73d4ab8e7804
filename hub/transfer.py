"""Bytes over HTTP that never exceed the announced size, never wait forever, and go on when cut.

Requests go through huggingface_hub's client, which handles proxies, offline mode and the user's
token. The client drops the token if an answer leads to another host.
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
LEAST_BYTES = 1024  # fewer bytes in SILENCE_S count as silence
ENOUGH_BYTES = 2**16  # a connection that brings fewer bytes has failed
WAITS_S = (1.0, 2.0, 4.0)  # after each of several failed connections in a row
_BUSY = {408, 429, 500, 502, 503, 504}
_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)")


class Silence(Exception):
    """The other side sends nothing, or almost nothing."""


class Refused(Exception):
    """The hub answered with an error.

    Attributes:
        status: HTTP status.
        code: The hub's own error code; empty if it gave none.
    """

    def __init__(self, status: int, code: str) -> None:
        """Keep the status and the code."""
        super().__init__(f"answered {status}")
        self.status = status
        self.code = code


class _Restart(Exception):
    """The bytes that are kept are not the beginning of what the server would send."""


def read_capped(url: str, *, most: int, within_s: float) -> bytes:
    """Return the body of a small answer.

    Args:
        url: Address.
        most: Largest size in bytes.
        within_s: Longest time in seconds.

    Raises:
        UnexpectedAnswer: The body is larger.
        Silence: The body takes longer, or nothing comes.
        Refused: The server answered with an error.
        HTTPError: The connection failed.
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

    It gives up when several connections in a row bring almost nothing. What was received stays for
    the next call, unless the server sends something else than was listed.

    Args:
        url: Address.
        part: File to append to; created if missing.
        size: Size of the whole file in bytes. None for the size that the answer announces; then
            nothing that ``part`` holds is kept.
        most: Largest size of such a file, in bytes.
        came: Called with the number of bytes that each step received.

    Raises:
        UnexpectedAnswer: The server sends something else than was listed.
        Silence: Nothing comes.
        Refused: The server answered with an error.
        OSError: The file cannot be written.
        HTTPError: The connection failed.
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
    """Write what one connection brings; return the whole file's size."""
    with _answer(url, had) as response:
        start, total = _beginning(response, had)
        if total is not None and size is not None and total != size:
            raise UnexpectedAnswer(f"sends {total} bytes where {size} were listed")
        size = _fitting(total if size is None else size, most, part, had)
        kept = had - start  # bytes that are repeated if the server sends all, not the rest
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
    """Return the size of a file after checking that it is allowed and that the disk has room."""
    if size is None:
        raise UnexpectedAnswer("neither lists nor announces a file's size")
    if size > most:
        raise UnexpectedAnswer(f"has {size} bytes for a file of at most {most}")
    if size - had > shutil.disk_usage(part.parent).free:
        raise OSError(errno.ENOSPC, f"no room for {(size - had) / 1e9:.1f} GB", str(part.parent))
    return size


def _beginning(response: Any, had: int) -> tuple[int, int | None]:
    """Return where the answer's body begins in the file, and the file's size or None."""
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
    """Yield an answer of which only the head was read, without the first ``start`` bytes."""
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with get_session().stream("GET", url, headers=headers, timeout=SILENCE_S) as response:
        yield response


def _chunks(response: Any) -> Iterator[bytes]:
    """Yield the body as it comes, not decompressed: a small body could become an endless one."""
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
    """Return the error that an answer is."""
    return Refused(response.status_code, response.headers.get("X-Error-Code", ""))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
