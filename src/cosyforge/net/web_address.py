"""One reading of a web address, the strict one: whatever two programs could understand differently is refused.

A host is a plain name, a dotted quad, or an IPv6 address in brackets. Decimal, octal, hexadecimal and short forms of
IPv4, zone ids, credentials, backslashes, control characters and names outside ASCII are not for addresses that a
stranger may write.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote

from cosyforge.errors import InvalidParameter

MAX_CHARACTERS = 2048
DEFAULT_PORTS = {"http": 80, "https": 443}

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_FORM = re.compile(
    r"(?P<scheme>https?)://(?P<authority>[^/?#]+)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(?:#.*)?", re.I | re.S
)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_LOOKS_LIKE_A_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\xa0\\\"<>^`{|}\u2028\u2029\ufeff]")


@dataclass(frozen=True)
class WebAddress:
    """host is lower case, without brackets; ip is set where the host is an address already."""

    scheme: str
    host: str
    port: int
    target: str
    """What goes into the request line: path and query."""
    ip: IPAddress | None = None

    @property
    def host_header(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == DEFAULT_PORTS[self.scheme] else f"{name}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header}{self.target}"


def parse_web_address(written: str) -> WebAddress:
    """Read an http or https address.

    Raises: InvalidParameter that says which part is refused
    """
    if len(written) > MAX_CHARACTERS:
        raise InvalidParameter(f"the address is longer than {MAX_CHARACTERS} characters")
    if _FORBIDDEN.search(written):
        raise InvalidParameter("the address holds a space, a backslash or another character that must be escaped")
    match = _FORM.fullmatch(written)
    if match is None:
        raise InvalidParameter("the address must begin with http:// or https:// and name a host")
    scheme = match["scheme"].lower()
    host, port = _host_and_port(match["authority"], DEFAULT_PORTS[scheme])
    target = (match["path"] or "/") + (match["query"] or "")
    try:
        # only what lies outside ASCII is escaped; % stays, it belongs to escapes that are there already
        target = quote(target, safe="/?&=%:@!$'()*+,;~-._[]#")
    except UnicodeEncodeError as error:
        raise InvalidParameter("the address holds half a surrogate pair") from error
    return WebAddress(scheme, host, port, target, _as_ip(host))


def _host_and_port(authority: str, default_port: int) -> tuple[str, int]:
    if "@" in authority:
        raise InvalidParameter("the address must not hold a user name or password")
    match = re.fullmatch(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{1,5}))?", authority)
    if match is None:
        raise InvalidParameter("the host or the port of the address is not valid")
    port = int(match["port"]) if match["port"] else default_port
    if not 1 <= port <= 65535:
        raise InvalidParameter("the port of the address is not valid")
    host = match["host"].lower()
    if host.startswith("["):
        return _ipv6(host[1:-1]), port
    if not host.isascii():
        raise InvalidParameter("the host must be written in ASCII; give an international name in its xn-- form")
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidParameter("the host of the address is not valid")
    if _LOOKS_LIKE_A_NUMBER.fullmatch(labels[-1]) and not _is_dotted_quad(labels):
        raise InvalidParameter("an IPv4 address must be written as four decimal numbers without leading zeros")
    return host, port


def _is_dotted_quad(labels: list[str]) -> bool:
    return len(labels) == 4 and all(re.fullmatch(r"0|[1-9][0-9]{0,2}", label) and int(label) <= 255 for label in labels)


def _ipv6(written: str) -> str:
    try:
        if "%" in written:
            raise ValueError
        return ipaddress.IPv6Address(written).compressed
    except ValueError as error:
        raise InvalidParameter("the IPv6 address is not valid; zone ids are not allowed") from error


def _as_ip(host: str) -> IPAddress | None:
    if ":" in host:
        return ipaddress.IPv6Address(host)
    return ipaddress.IPv4Address(host) if _is_dotted_quad(host.split(".")) else None
