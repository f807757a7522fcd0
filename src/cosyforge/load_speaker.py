"""A client of the duplex socket for the load test: it checks that every event and frame stands in its place."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from websockets.asyncio.client import ClientConnection, connect


@dataclass(frozen=True)
class Target:
    """log: where the server writes, when it is ours; pid: likewise"""

    url: str
    key: str
    model: str
    voice: str
    log: Path | None = None
    pid: int | None = None


class Speaker:
    """One connection that speaks the protocol."""

    def __init__(self, target: Target, connection: ClientConnection) -> None:
        self._target = target
        self._connection = connection

    async def send(self, action: str, task_id: str, payload: dict[str, Any]) -> None:
        header = {"action": action, "task_id": task_id, "streaming": "duplex"}
        await self._connection.send(json.dumps({"header": header, "payload": payload}))

    async def begin(self) -> str:
        """Raises: RuntimeError when the task does not start"""
        task_id = uuid4().hex
        parameters = {"voice": self._target.voice, "format": "pcm", "sample_rate": 24000}
        service = {"task_group": "audio", "task": "tts", "function": "SpeechSynthesizer", "model": self._target.model}
        await self.send("run-task", task_id, {**service, "input": {}, "parameters": parameters})
        event = json.loads(await self._connection.recv())
        if event["header"]["event"] != "task-started":
            raise RuntimeError(f"{event['header'].get('error_code')}: {event['header'].get('error_message')}")
        return task_id

    async def text(self, task_id: str, text: str) -> None:
        await self.send("continue-task", task_id, {"input": {"text": text}})

    async def finish(self, task_id: str) -> None:
        await self.send("finish-task", task_id, {"input": {}})

    async def sounds(self) -> AsyncIterator[bytes]:
        """The audio of a task until it has finished; every event and frame is checked for its place.

        Raises: RuntimeError when the task fails or something stands where it may not
        """
        is_sound_due = False
        while True:
            message = await self._connection.recv()
            if isinstance(message, bytes) != is_sound_due:
                raise RuntimeError("a binary frame without its event, or the other way round")
            is_sound_due = False
            if isinstance(message, bytes):
                yield message
                continue
            event = json.loads(message)
            kind = event["header"]["event"]
            if kind == "task-finished":
                return
            if kind != "result-generated":
                raise RuntimeError(f"{event['header'].get('error_code')}: {event['header'].get('error_message')}")
            is_sound_due = event["payload"]["output"]["type"] == "sentence-synthesis"


@asynccontextmanager
async def open_speaker(
    target: Target, receive_buffer: int | None = None
) -> AsyncIterator[tuple[Speaker, ClientConnection]]:
    """A connection; a small receive buffer makes it feel a slow reader's pace soon."""
    address = urlsplit(target.url)
    plain = socket.socket()
    if receive_buffer is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, (address.hostname, address.port))
    url = f"ws://{address.netloc}/api-ws/v1/inference"
    headers = {"Authorization": f"Bearer {target.key}"}
    limits: dict[str, Any] = {"max_size": None, "max_queue": 1 if receive_buffer else 16}
    async with connect(
        url, additional_headers=headers, sock=plain, ping_interval=None, open_timeout=60, compression=None, **limits
    ) as connection:
        yield Speaker(target, connection), connection
