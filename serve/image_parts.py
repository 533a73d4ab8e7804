"""Images of a conversation: data URLs, and addresses on hosts that were allowed by name."""

from __future__ import annotations

import base64
import binascii
import urllib.request
from http.client import HTTPException
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from PIL import Image as PilImage

from janus_edge.runtime.errors import ImageError
from janus_edge.runtime.image import decode_noted
from janus_edge.serve.errors import Refused

MOST_BYTES = 20 * 10**6
TIMEOUT_S = 20.0


def fetch_image(url: str, name: str, hosts: tuple[str, ...]) -> PilImage.Image:
    """Return the image at a URL.

    Args:
        url: A data URL, or an http(s) address.
        name: What errors call it.
        hosts: Hosts that may be asked.

    Raises:
        Refused: The URL is none that may be read.
        ImageError: The bytes are no image, or did not come.
    """
    raw = _of_data(url, name) if url.startswith("data:") else _of_host(url, name, hosts)
    return decode_noted(raw, name)[0]


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


def _of_host(url: str, name: str, hosts: tuple[str, ...]) -> bytes:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        parts, host = None, ""
    if parts is None or parts.scheme not in ("http", "https") or host not in hosts:
        raise Refused(
            400,
            f"{name}: addresses are not fetched unless the server allows their host "
            "(serve --allow-images-from); send the image as a data URL",
        )
    try:
        with _OPENER.open(url, timeout=TIMEOUT_S) as response:
            raw: bytes = response.read(MOST_BYTES + 1)
    except (OSError, HTTPException, ValueError) as error:
        raise ImageError(f"{name}: {host} did not send it: {error}; check the address") from None
    if len(raw) > MOST_BYTES:
        raise ImageError(f"{name}: larger than {MOST_BYTES // 10**6} MB; send a smaller one")
    return raw


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Another address may be on a host that is not allowed."""

    def redirect_request(self, *words: Any, **names: Any) -> None:
        """Follow nothing."""


_OPENER = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))
