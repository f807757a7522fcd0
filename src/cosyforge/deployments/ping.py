"""Asks a replica whether it is alive, without ever waiting for it."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from cosyforge.deployments.frames import pack_frame, unpack_frame

_INTERVAL_S = 1.0


class Ping:
    """One replica's pulse: `look` now and then, from one thread at a time.

    Units: every `now` is monotonic seconds
    """

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._connection: socket.socket | None = None
        self._received = bytearray()
        self._asked_at: float | None = None
        """since when an answer is owed; a question that could not even be put counts too"""
        self._next_at = 0.0
        self.num_in_flight = 0
        """requests that it said it was working on"""

    def look(self, now: float) -> None:
        """Take in an answer that has come, put the next question when it is time."""
        if self._connection is not None:
            self._receive()
        if self._connection is None and now >= self._next_at:
            self._ask(now)

    def silent_s(self, now: float) -> float:
        return 0.0 if self._asked_at is None else now - self._asked_at

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, now: float) -> None:
        self._next_at = now + _INTERVAL_S
        if self._asked_at is None:
            self._asked_at = now
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            connection.connect(self._socket_path)
            connection.sendall(pack_frame({"type": "ping"}))
        except OSError:  # nobody listens, or nobody takes connections from a full queue: an answer is owed
            connection.close()
        else:
            self._connection = connection
            self._received.clear()

    def _receive(self) -> None:
        assert self._connection is not None
        with contextlib.suppress(BlockingIOError):
            try:
                piece = self._connection.recv(1 << 16)
            except ConnectionError:
                piece = b""
            self._received += piece
            answer = unpack_frame(self._received)
            if answer is not None:
                self._take(answer)
            if answer is not None or not piece:
                self.close()

    def _take(self, answer: dict[str, Any]) -> None:
        self._asked_at = None
        self.num_in_flight = int(answer["in_flight"])
