"""The socket: frames in, frames out. What they mean is decided in `duplex.py`; here its effects are carried out.

One coroutine reads and never waits for anything else, so that a client's leaving is seen at once. One writes, and waits
for a slow client. Each task has one that pulls its audio, a piece at a time and not before the last piece has gone out:
what nobody has read yet waits in the kernel's buffers between us and the replica, which is how a slow reader slows its
own task and nothing else.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import aclosing, suppress
from typing import Any
from uuid import uuid4
from weakref import WeakSet

import anyio
import structlog
from anyio import CapacityLimiter
from anyio.abc import TaskGroup
from fastapi import APIRouter, WebSocket
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocketDisconnect

from cosyforge import metrics
from cosyforge.api.auth import identify
from cosyforge.api.context import now
from cosyforge.api.duplex import Check, Close, Duplex, Effect, EndText, Rules, Send, Speak, Stop
from cosyforge.api.envelope import error_body, wire_error
from cosyforge.api.socket_task import Gates, SocketTask
from cosyforge.api.speech_request import TRACE_HEADER, wants_trace
from cosyforge.api.utterance import Origin
from cosyforge.bootstrap import Platform
from cosyforge.errors import Internal, PlatformError, ShuttingDown, Throttled
from cosyforge.registry.api_keys import ApiKey

router = APIRouter()
_log = structlog.get_logger()

_GOODBYE_S = 10.0
"""How long a client that reads nothing may keep us from closing, and a task from being accounted for."""
_TICK_LATE_S = 0.001
"""The deadline itself is still in time; a millisecond after it is not."""


open_sockets: WeakSet[Socket] = WeakSet()
"""For `retire_sockets`; a process has one server."""


def retire_sockets() -> None:
    """The server is stopping: idle connections are closed now, the others when their task has ended."""
    for socket in list(open_sockets):
        socket.retire()


@router.websocket("/api-ws/v1/inference")
@router.websocket("/api-ws/v1/inference/")
async def converse(websocket: WebSocket) -> None:
    """Speak in duplex: text comes in while its audio goes out. A bad key is refused before the upgrade."""
    platform: Platform = websocket.app.state.platform
    places: CapacityLimiter = websocket.app.state.websockets
    try:
        caller = await _admit(websocket, platform, places)
    except PlatformError as error:
        await _refuse(websocket, error)
        return
    try:
        with metrics.sockets.track_inprogress():
            await websocket.accept()
            socket = Socket(websocket, platform, caller)
            open_sockets.add(socket)
            await socket.serve()
    except WebSocketDisconnect:
        pass  # it left while we answered
    except Exception:
        # the last handler of a socket: the trace is for us; the client learns that it was not its fault
        _log.exception("socket_crashed")
        with anyio.move_on_after(1), suppress(WebSocketDisconnect, RuntimeError):  # it may be closed already
            await websocket.close(1011, "internal error")
    finally:
        places.release_on_behalf_of(websocket)


async def _admit(websocket: WebSocket, platform: Platform, places: CapacityLimiter) -> ApiKey:
    """Raises: Unauthenticated, AccessDenied; Throttled when there are too many sockets; ShuttingDown"""
    if platform.is_stopping:
        raise ShuttingDown()
    caller = await run_in_threadpool(identify, platform, websocket.headers, now())
    try:
        places.acquire_on_behalf_of_nowait(websocket)
    except anyio.WouldBlock:
        metrics.throttled.labels("websockets").inc()
        limit = platform.settings.max_websockets
        raise Throttled(f"{limit} connections are open, which is the most that this server takes.") from None
    return caller


async def _refuse(websocket: WebSocket, error: PlatformError) -> None:
    request_id: str = websocket.state.request_id
    status, code = wire_error(error)
    client = websocket.client.host if websocket.client else "unknown"
    _log.warning("socket_refused", status=status, error_code=code, reason=error.fields.get("reason"), client=client)
    body = error_body(request_id, code, error.message)
    await websocket.send_denial_response(JSONResponse(body, status, {"x-request-id": request_id}))


class Socket:
    """One connection that was let in."""

    def __init__(self, websocket: WebSocket, platform: Platform, caller: ApiKey) -> None:
        self._websocket = websocket
        self._platform = platform
        self._caller = caller
        self._wants_trace = wants_trace(websocket.headers.get(TRACE_HEADER))
        settings = platform.settings
        gap_s, idle_s, stall_s = settings.websocket_text_gap_s, settings.websocket_idle_s, settings.request_timeout_s
        rules = Rules(gap_s, idle_s, stall_s, caller.workspace_id)
        self._duplex = Duplex(rules, lambda: str(uuid4()))
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._goodbye: asyncio.TimerHandle | None = None
        self._tasks: dict[int, SocketTask] = {}
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._outbox: deque[Send | Close] = deque()
        self._has_mail = asyncio.Event()
        self._is_sent = asyncio.Event()
        self._is_sent.set()
        self._group: TaskGroup = anyio.create_task_group()

    async def serve(self) -> None:
        """Until either side has hung up."""
        async with self._group:
            self._group.start_soon(self._write)
            try:
                await self._read()
            finally:
                self._carry_out(self._duplex.gone())
                # tasks that were stopped end by themselves and are accounted for
                with anyio.move_on_after(_GOODBYE_S, shield=True):
                    await self._is_idle.wait()
                for timer in (self._timer, self._goodbye):
                    if timer is not None:
                        timer.cancel()
                self._group.cancel_scope.cancel()

    def retire(self) -> None:
        self._carry_out(self._duplex.retire())

    async def _read(self) -> None:
        while (message := await self._websocket.receive())["type"] != "websocket.disconnect":
            text = message.get("text")
            effects = self._duplex.receive_binary() if text is None else self._duplex.receive(text, self._loop.time())
            self._carry_out(effects)

    async def _write(self) -> None:
        """Send what is in the outbox; an event and its audio are one thing."""
        try:
            while True:
                await self._has_mail.wait()
                while self._outbox:
                    effect = self._outbox.popleft()
                    if isinstance(effect, Close):
                        await self._websocket.close(effect.code, effect.reason)
                        return
                    await self._websocket.send_text(json.dumps(effect.event, ensure_ascii=False))
                    if effect.audio:
                        await self._websocket.send_bytes(effect.audio)
                self._has_mail.clear()
                self._is_sent.set()
        except WebSocketDisconnect:
            return  # the reader hears of it too, and ends everything

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send() | Close():
                    self._post(effect)
                case Check():
                    self._begin(effect)
                case Speak():
                    self._tasks[effect.number].add_text(effect.text)
                case EndText():
                    self._tasks[effect.number].end_text()
                case Stop():
                    self._stop(effect)
        self._set_timer()

    def _post(self, effect: Send | Close) -> None:
        self._outbox.append(effect)
        self._is_sent.clear()
        self._has_mail.set()
        if isinstance(effect, Close):
            self._goodbye = self._loop.call_later(_GOODBYE_S, self._group.cancel_scope.cancel)

    def _stop(self, effect: Stop) -> None:
        kept = [mail for mail in self._outbox if isinstance(mail, Close) or mail.number != effect.number]
        self._outbox = deque(kept)
        task = self._tasks.get(effect.number)
        if task is not None:
            task.stop(effect.reason)
        self._is_sent.set()  # it may wait for a writer who is stuck or has gone; another's next piece just comes early

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._duplex.deadline
        self._timer = None if deadline is None else self._loop.call_at(deadline + _TICK_LATE_S, self._tick)

    def _tick(self) -> None:
        self._carry_out(self._duplex.tick(self._loop.time()))

    # ---- tasks

    def _begin(self, asked: Check) -> None:
        origin = Origin("websocket", asked.request.request_id, asked.task_id, self._wants_trace)
        state = self._websocket.app.state
        gates = Gates(state.websocket_tasks, state.rate_limits)
        task = SocketTask(self._platform, self._caller, asked.model, asked.request, origin, gates)
        self._tasks[asked.number] = task
        self._is_idle.clear()
        self._group.start_soon(self._work, asked.number, task)

    async def _work(self, number: int, task: SocketTask) -> None:
        """All of a task. However it ends, the protocol is told, and what it said is counted."""
        try:
            await task.find()
            self._carry_out(self._duplex.accepted(number, self._loop.time()))
            async with aclosing(task.chunks()) as chunks:
                async for chunk in chunks:
                    self._carry_out(self._duplex.chunk(number, chunk, self._loop.time()))
                    await self._is_sent.wait()
            await task.end()
            attributes: dict[str, Any] = {"trace": task.trace()} if self._wants_trace else {}
            self._carry_out(self._duplex.finished(number, self._loop.time(), attributes))
        except PlatformError as error:
            await task.end(error)
            self._carry_out(self._duplex.failed(number, error))
        finally:
            await task.end(Internal())  # for what nobody foresaw; harmless after another end
            del self._tasks[number]
            if not self._tasks:
                self._is_idle.set()
