"""Which machines may be asked on a stranger's behalf: those of the public internet, and what the operator allows."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from cosyforge.errors import InvalidParameter
from cosyforge.net.web_address import DEFAULT_PORTS, IPAddress

_NOT_PUBLIC_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
"""Source: IANA IPv4 special-purpose address registry; multicast; class E"""

_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3ffe::/16", "3fff::/20")
)
"""Parts of global unicast that are none, or that carry an IPv4 address inside (Teredo, 6to4).

Source: IANA IPv6 special-purpose address registry. Everything outside 2000::/3 is refused anyway: loopback, mapped,
compatible, NAT64, unique local, link-local, multicast.
"""


def is_public(ip: IPAddress) -> bool:
    """Reachable for everybody, hence nobody's secret."""
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _NOT_PUBLIC_V4)
    return ip in _GLOBAL_V6 and not any(ip in network for network in _NOT_PUBLIC_V6)


@dataclass(frozen=True)
class _Entry:
    host: str | None
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None
    port: int | None

    def matches(self, host: str, ip: IPAddress, port: int) -> bool:
        if port != self.port and not (self.port is None and port in DEFAULT_PORTS.values()):
            return False
        if self.network is None:
            return host == self.host
        return ip.version == self.network.version and ip in self.network


class AllowList:
    """Entries are a host name, an address or a network (CIDR), each with or without `:port`; IPv6 in brackets.

    An entry without a port is good for 80 and 443. A host name vouches for whatever addresses it has.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        """Raises: InvalidParameter naming the entry that is none of these"""
        self._entries = [_parse(entry) for entry in entries]

    def permits(self, host: str, ip: IPAddress, port: int) -> bool:
        """Say whether this address of this host may be connected to."""
        if is_public(ip) and port in DEFAULT_PORTS.values():
            return True
        return any(entry.matches(host, ip, port) for entry in self._entries)


def _parse(written: str) -> _Entry:
    text = written.strip().lower()
    match = re.fullmatch(r"(?P<place>\[[0-9a-f:.]+\](?:/\d{1,3})?|[^:\[\]]+)(?::(?P<port>\d{1,5}))?", text)
    if match is None or (match["port"] and not 1 <= int(match["port"]) <= 65535):
        raise _wrong(written)
    port = int(match["port"]) if match["port"] else None
    place = match["place"].replace("[", "").replace("]", "")
    if ":" in place or re.fullmatch(r"[\d./]+", place):
        try:
            return _Entry(None, ipaddress.ip_network(place), port)
        except ValueError as error:
            raise _wrong(written) from error
    if not re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?", place):
        raise _wrong(written)
    return _Entry(place, None, port)


def _wrong(written: str) -> InvalidParameter:
    return InvalidParameter(
        f"fetch_allow: {written!r} is no host name, address or network; write files.example.org, 10.1.2.3:8080, "
        "10.0.0.0/8 or [fd00::]/8"
    )
