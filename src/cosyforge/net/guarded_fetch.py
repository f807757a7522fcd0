"""Fetches an address that a stranger wrote, without becoming his tool.

The host is resolved once; unless every address of it may be asked (`allow_list.py`), nothing is connected to. The
connection goes to the address that was checked, never to a second resolution, while TLS still proves the host's name.
A redirect is a new address that goes through all of this again. Size, time and number of hops are bounded. Nothing is
taken from the environment (no proxies) and nothing is sent that says who asks (no cookies, no credentials).
"""

from __future__ import annotations

import functools
import http.client
import io
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

from cosyforge.errors import InvalidParameter
from cosyforge.net.allow_list import AllowList
from cosyforge.net.web_address import IPAddress, WebAddress, parse_web_address

Resolver = Callable[[str, int], list[str]]
"""(host, port) -> the addresses of the host. Raises: OSError"""

USER_AGENT = "CosyForge"
MAX_REDIRECTS = 3
NOT_ALLOWED = "address not allowed"
_REDIRECTS = (301, 302, 303, 307, 308)
_READ_SIZE = 1 << 16
_MAX_LOOKUPS = 16
_MAX_ADDRESSES = 16


def resolve(host: str, port: int) -> list[str]:
    """Ask the system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True)
class FetchLimits:
    """Units: seconds for everything, from the first look-up to the last byte, and for one connection"""

    total_s: float = 15.0
    connect_s: float = 5.0


class GuardedFetch:
    """One for the process; several threads may fetch at the same time."""

    def __init__(
        self,
        allow_list: AllowList | None = None,
        limits: FetchLimits | None = None,
        *,
        resolver: Resolver = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """tls: whom to trust; None: the certificates of the system"""
        self._allow_list = allow_list or AllowList()
        self._limits = limits or FetchLimits()
        self._resolver = resolver
        self._tls = tls
        # a name server that does not answer holds a thread: so many, and no more
        self._lookups = threading.BoundedSemaphore(_MAX_LOOKUPS)

    def fetch(self, written: str, max_bytes: int) -> bytes:
        """The body of the answer.

        Raises: InvalidParameter that says what is wrong; never which address a name has, or what listens there
        """
        deadline = _Deadline(self._limits.total_s)
        address = parse_web_address(written)
        for _ in range(MAX_REDIRECTS + 1):
            with self._answer(address, deadline) as answer:
                if answer.status not in _REDIRECTS:
                    return _body(answer, max_bytes)
                address = _redirected(address, answer)
        raise InvalidParameter(f"there are more than {MAX_REDIRECTS} redirects")

    @contextmanager
    def _answer(self, address: WebAddress, deadline: _Deadline) -> Iterator[http.client.HTTPResponse]:
        """Ask one address, once checked.

        Raises: InvalidParameter also for what goes wrong while the answer is read
        """
        try:
            with closing(self._connected(address, deadline)) as connection:
                stream = _TimedSocket(self._secured(connection, address, deadline), deadline)
                with closing(stream):
                    yield _ask(stream, address)
        except TimeoutError as error:
            raise InvalidParameter("the server is too slow") from error
        except ssl.SSLError as error:
            raise InvalidParameter("the server's certificate is not valid, or it speaks no TLS") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise InvalidParameter("the server cannot be reached or gives no proper answer") from error

    def _connected(self, address: WebAddress, deadline: _Deadline) -> socket.socket:
        problem: OSError | None = None
        for ip in self._checked(address, deadline):
            try:
                return socket.create_connection(
                    (str(ip), address.port), timeout=min(self._limits.connect_s, deadline.left_s())
                )
            except OSError as error:
                problem = error
        assert problem is not None, "there is at least one address"
        raise problem

    def _checked(self, address: WebAddress, deadline: _Deadline) -> list[IPAddress]:
        """The addresses to try; all of them may be asked, or none is given.

        Raises: InvalidParameter
        """
        addresses = [address.ip] if address.ip is not None else self._looked_up(address, deadline)
        if not all(self._allow_list.permits(address.host, ip, address.port) for ip in addresses):
            raise InvalidParameter(NOT_ALLOWED)
        return addresses[:_MAX_ADDRESSES]

    def _looked_up(self, address: WebAddress, deadline: _Deadline) -> list[IPAddress]:
        found = self._within(deadline, functools.partial(self._resolver, address.host, address.port))
        if not found:
            raise InvalidParameter("the host has no address")
        try:
            return [ipaddress.ip_address(written) for written in found]
        except ValueError as error:  # a zone id, for one
            raise InvalidParameter(NOT_ALLOWED) from error

    def _within(self, deadline: _Deadline, look_up: Callable[[], list[str]]) -> list[str]:
        """Look a name up in a thread of its own: the system's resolver knows no time limit."""
        if not self._lookups.acquire(timeout=deadline.left_s()):
            raise InvalidParameter("too many names are being looked up; try again later")
        outcome: list[list[str] | Exception] = []

        def run() -> None:
            try:
                outcome.append(look_up())
            except (OSError, UnicodeError) as error:
                outcome.append(error)
            finally:
                self._lookups.release()

        thread = threading.Thread(target=run, name="look-up", daemon=True)
        thread.start()
        thread.join(deadline.left_s())
        if not outcome:
            raise InvalidParameter("the host could not be looked up in time")
        if isinstance(outcome[0], Exception):
            raise InvalidParameter("the host is not known") from outcome[0]
        return outcome[0]

    def _secured(self, connection: socket.socket, address: WebAddress, deadline: _Deadline) -> socket.socket:
        if address.scheme == "http":
            return connection
        connection.settimeout(min(self._limits.connect_s, deadline.left_s()))
        self._tls = self._tls or ssl.create_default_context()
        return self._tls.wrap_socket(connection, server_hostname=address.host)


class _Deadline:
    def __init__(self, duration_s: float) -> None:
        self._end = time.monotonic() + duration_s

    def left_s(self) -> float:
        """Raises: TimeoutError when nothing is left"""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class _TimedSocket:
    """A socket as http.client wants it, whose every read ends at the deadline, however little each one brings."""

    def __init__(self, connection: socket.socket, deadline: _Deadline) -> None:
        self._connection = connection
        self._deadline = deadline

    def sendall(self, request: bytes) -> None:
        self._connection.settimeout(self._deadline.left_s())
        self._connection.sendall(request)

    def receive_into(self, buffer: memoryview) -> int:
        self._connection.settimeout(self._deadline.left_s())
        return self._connection.recv_into(buffer)

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self), _READ_SIZE)

    def close(self) -> None:
        self._connection.close()


class _Reader(io.RawIOBase):
    def __init__(self, connection: _TimedSocket) -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._connection.receive_into(memoryview(buffer))


def _ask(connection: _TimedSocket, address: WebAddress) -> http.client.HTTPResponse:
    lines = [
        f"GET {address.target} HTTP/1.1",
        f"Host: {address.host_header}",
        f"User-Agent: {USER_AGENT}",
        "Accept: audio/wav, audio/*;q=0.9, */*;q=0.1",
        "Accept-Encoding: identity",
        "Connection: close",
    ]
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
    answer = http.client.HTTPResponse(connection, method="GET")  # type: ignore[arg-type]
    answer.begin()
    return answer


def _redirected(address: WebAddress, answer: http.client.HTTPResponse) -> WebAddress:
    location = answer.getheader("Location")
    if not location:
        raise InvalidParameter("the server redirects to nowhere")
    # checked before it is joined as well: joining forgives what must not be forgiven
    if any(not 0x20 < ord(char) < 0x7F or char == "\\" for char in location):
        raise InvalidParameter("the server redirects to an address that is not valid")
    following = parse_web_address(urljoin(str(address), location))
    if address.scheme == "https" and following.scheme == "http":
        raise InvalidParameter("the server redirects from https to http")
    return following


def _body(answer: http.client.HTTPResponse, max_bytes: int) -> bytes:
    if answer.status != 200:
        raise InvalidParameter(f"the server answers {answer.status}")
    if answer.getheader("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise InvalidParameter("the server compresses its answer, although asked not to")
    promised = answer.length
    if promised is not None and promised > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    while piece := answer.read(min(_READ_SIZE, max_bytes + 1 - len(body))):
        body += piece
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    if promised is not None and len(body) != promised:
        raise InvalidParameter("the server ends its answer early")
    return bytes(body)


def _too_large(max_bytes: int) -> InvalidParameter:
    return InvalidParameter(f"the file is larger than {max_bytes} bytes")
