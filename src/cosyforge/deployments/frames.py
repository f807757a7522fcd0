"""The language between the server and a replica: frames on a Unix socket, one connection per request.

A frame is two big-endian 32-bit lengths, a JSON header and raw bytes. The server sends `start` (the request), `text`
(a piece) as often as it likes, `end`; the replica answers `accepted`, then `chunk` (audio) frames and one `end` or
`error`. Whoever hangs up first cancels. A connection that begins with `ping` gets one `pong` instead.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import asdict
from typing import Any

from cosyforge import errors
from cosyforge.synthesis.request import AudioChunk, Word

_LENGTHS = struct.Struct(">II")
_MAX_BYTES = 1 << 28


def send_frame(connection: socket.socket, header: dict[str, Any], payload: bytes = b"") -> None:
    """Blocks while the other side does not read: what waits for a slow listener is bounded by the socket's buffer."""
    connection.sendall(pack_frame(header, payload))


def pack_frame(header: dict[str, Any], payload: bytes = b"") -> bytes:
    encoded = json.dumps(header, ensure_ascii=False).encode()
    return _LENGTHS.pack(len(encoded), len(payload)) + encoded + payload


def unpack_frame(received: bytes | bytearray) -> dict[str, Any] | None:
    """The header of a frame of which the beginning has been received; None when it is not all there."""
    if len(received) < _LENGTHS.size:
        return None
    header_size, _ = _LENGTHS.unpack_from(received)
    encoded = bytes(received[_LENGTHS.size : _LENGTHS.size + header_size])
    return dict(json.loads(encoded)) if len(encoded) == header_size else None


def receive_frame(connection: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    """The next frame; None when the other side has hung up.

    Raises: ConnectionError when it hung up in the middle of a frame, or spoke another language
    """
    lengths = _receive(connection, _LENGTHS.size)
    if lengths is None:
        return None
    header_size, payload_size = _LENGTHS.unpack(lengths)
    if header_size + payload_size > _MAX_BYTES:
        raise ConnectionError(f"a frame of {header_size + payload_size} bytes")
    header = _receive(connection, header_size)
    payload = _receive(connection, payload_size) if payload_size else b""
    if header is None or payload is None:
        raise ConnectionError("the connection ended inside a frame")
    return json.loads(header), payload


def _receive(connection: socket.socket, size: int) -> bytes | None:
    pieces = bytearray()
    while len(pieces) < size:
        piece = connection.recv(min(size - len(pieces), 1 << 20))
        if not piece:
            if pieces:
                raise ConnectionError("the connection ended inside a frame")
            return None
        pieces += piece
    return bytes(pieces)


def chunk_to_frame(chunk: AudioChunk) -> tuple[dict[str, Any], bytes]:
    header = {key: value for key, value in asdict(chunk).items() if key != "audio"}
    return {"type": "chunk", **header}, chunk.audio


def chunk_from_frame(header: dict[str, Any], payload: bytes) -> AudioChunk:
    fields = {key: value for key, value in header.items() if key not in ("type", "words")}
    return AudioChunk(audio=payload, words=tuple(Word(**word) for word in header.get("words", ())), **fields)


def error_to_frame(error: errors.PlatformError) -> dict[str, Any]:
    fields = {key: value for key, value in error.fields.items() if isinstance(value, str | int | float | bool)}
    return {"type": "error", "error": type(error).__name__, "message": error.message, "fields": fields}


def error_from_frame(header: dict[str, Any]) -> errors.PlatformError:
    """The same class of error on this side; one that this side does not know is our fault."""
    kind = getattr(errors, header["error"], errors.Internal)
    if not (isinstance(kind, type) and issubclass(kind, errors.PlatformError)):
        kind = errors.Internal
    return kind(header["message"], **header["fields"])
