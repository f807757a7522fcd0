"""A replica in another process as a Synthesizer in this one."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from collections.abc import Iterable, Iterator
from typing import NoReturn

from cosyforge.deployments.frames import chunk_from_frame, error_from_frame, receive_frame, send_frame
from cosyforge.errors import Internal
from cosyforge.synthesis.request import AudioChunk, SynthesisRequest

_ACCEPT_S = 10.0
"""How long a replica may take to accept a request; it does so at once, in a thread of its own, however busy its engine is."""


class ReplicaClient:
    """Implements Synthesizer over a replica's socket; every request has a connection of its own."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path

    def synthesize(self, request: SynthesisRequest, text: Iterable[str]) -> ReplicaStream:
        """Start speaking.

        Raises: ConnectionError when the replica does not answer
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(self._socket_path)
            send_frame(connection, {"type": "start", "request": dataclasses.asdict(request)})
            connection.settimeout(_ACCEPT_S)
            if receive_frame(connection) is None:
                raise ConnectionError("it hung up before the request was begun")
            connection.settimeout(None)
        except OSError as error:
            connection.close()
            raise ConnectionError(f"the replica does not answer: {error}") from error
        return ReplicaStream(connection, text)

    def close(self) -> None:
        """Nothing is held between requests."""


class ReplicaStream:
    """The chunks of one request. `close` may be called from any thread and cancels."""

    def __init__(self, connection: socket.socket, text: Iterable[str]) -> None:
        self._connection = connection
        self._text_error: Exception | None = None
        self._is_closed = threading.Event()
        if isinstance(text, list | tuple):
            self._send_text(text)
        else:
            threading.Thread(target=self._send_text, args=(text,), daemon=True).start()

    def __iter__(self) -> Iterator[AudioChunk]:
        return self

    def __next__(self) -> AudioChunk:
        try:
            frame = None if self._is_closed.is_set() else receive_frame(self._connection)
        except OSError:
            frame = None
        if frame is None:
            self._raise_interrupted()
        header, payload = frame
        if header["type"] == "chunk":
            return chunk_from_frame(header, payload)
        self.close()
        if header["type"] == "error":
            raise error_from_frame(header)
        raise StopIteration

    def close(self) -> None:
        if not self._is_closed.is_set():
            self._is_closed.set()
            with contextlib.suppress(OSError):  # the other side may have hung up first
                self._connection.shutdown(socket.SHUT_RDWR)
            self._connection.close()

    def _raise_interrupted(self) -> NoReturn:
        was_closed = self._is_closed.is_set()
        self.close()
        if self._text_error is not None:
            raise self._text_error
        if was_closed:
            raise StopIteration
        raise Internal("The replica stopped while it was speaking; please try again.", is_temporary=True)

    def _send_text(self, text: Iterable[str]) -> None:
        try:
            for piece in text:
                send_frame(self._connection, {"type": "text", "text": piece})
            send_frame(self._connection, {"type": "end"})
        except OSError:
            pass  # the replica has hung up; the reading side finds out why
        except Exception as error:
            # raised by whoever produces the text; handed to whoever reads the audio
            self._text_error = error
            self.close()
