"""A small web server on a loopback port that misbehaves as its path says, and a resolver that tells what tests want."""

import socket
import socketserver
import struct
import threading
from collections.abc import Iterator

import pytest


def wav(num_samples: int = 1600, rate_hz: int = 16_000, channels: int = 1, bits: int = 16, kind: int = 1) -> bytes:
    block = channels * bits // 8
    body = bytes(range(256)) * (num_samples * block // 256 + 1)
    body = body[: num_samples * block]
    layout = struct.pack("<HHIIHH", kind, channels, rate_hz, rate_hz * block, block, bits)
    start = b"WAVEfmt " + struct.pack("<I", len(layout)) + layout + b"data" + struct.pack("<I", len(body))
    return b"RIFF" + struct.pack("<I", len(start) + len(body)) + start + body


class WebServer:
    """answers: path -> what is sent, bytes or a function of the connection; `asked` holds what came in."""

    def __init__(self) -> None:
        self.answers = {}
        self.asked: list[str] = []
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                outer._handle(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            block_on_close = False
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.address = f"127.0.0.1:{self.port}"
        self.is_closing = threading.Event()
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _handle(self, connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            piece = connection.recv(4096)
            if not piece:
                return
            request += piece
        self.asked.append(request.decode())
        answer = self.answers.get(request.split(b" ")[1].decode(), response(b"", status="404 Not Found"))
        try:
            if callable(answer):
                answer(connection)
            else:
                connection.sendall(answer)
        except OSError:
            pass  # the client has had enough, which several tests are about

    def url(self, path: str) -> str:
        return f"http://{self.address}{path}"

    def close(self) -> None:
        self.is_closing.set()
        self._server.shutdown()
        self._server.server_close()


def response(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def redirect(location: str) -> bytes:
    return response(b"", f"Location: {location}", status="302 Found")


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.close()
