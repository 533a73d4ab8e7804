"""What a server allows."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from janus_edge.runtime.errors import OptionError

MB = 10**6


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server allows.

    Attributes:
        host: Address that it listens on.
        token: What clients send as "Authorization: Bearer TOKEN"; "" for none.
        timeout_s: Longest time of a request, s.
        most_body: Largest body, bytes.
        origins: Origins of other pages that may use it.
        image_hosts: Hosts that images are fetched from.
    """

    host: str = "127.0.0.1"
    token: str = ""
    timeout_s: float = 600
    most_body: int = 32 * MB
    origins: tuple[str, ...] = ()
    image_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise OptionError if anyone could use it."""
        if not self.is_local and not self.token:
            raise OptionError(
                f"host is {self.host}, which other machines reach; set JANUS_EDGE_TOKEN to a "
                "secret that clients send, or listen on 127.0.0.1"
            )

    @property
    def is_local(self) -> bool:
        """True if only this machine reaches it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return whether a host's name or address is this machine's alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
