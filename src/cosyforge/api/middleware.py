"""What happens to every request before its route: an id, a log line, figures, the key, its size, the last catch."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import structlog
from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cosyforge import metrics
from cosyforge.api.auth import PROTECTED, identify
from cosyforge.api.envelope import error_response
from cosyforge.api.rate_limits import RateLimits
from cosyforge.bootstrap import Platform
from cosyforge.errors import Internal, InvalidParameter, PlatformError, ShuttingDown, Unauthenticated

_log = structlog.get_logger()
_MAX_BODY_BYTES = 4 << 20
_PROBES = ("/healthz", "/readyz", "/metrics")
UPLOADS = ("/api/v1/files", "/compatible-mode/v1/files")
"""What is posted here goes to the disk as it comes, and is limited there."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_SECURITY_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
}
# answers hold signed links and keys: no cache on the way may keep them, and no browser may make a page of them
_PROTECTED_HEADERS = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}
_MANY_BRACKETS = 500
_UNKEEPABLE = re.compile(rb"\\u(0000|[dD][89a-fA-F])")


class RequestContext:
    """Gives every request an id: in its state, in its logs, in the x-request-id header of the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request_id = str(uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        if scope["type"] == "http":
            await self._answer(scope, receive, send, request_id)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        began_s = time.perf_counter()
        status = 0
        headers = {**_SECURITY_HEADERS, **(_PROTECTED_HEADERS if scope["path"].startswith(PROTECTED) else {})}

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name.lower() for name, _ in message["headers"]}
                added = [(name, value) for name, value in headers.items() if name not in given]
                message["headers"] = [*message["headers"], *added, (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            # the API's last handler: whatever it was, the client gets the envelope
            _log.exception("request_crashed")
            if status == 0:
                await error_response(Request(scope), Internal())(scope, receive, send_with_id)
        finally:
            _note(scope, status, time.perf_counter() - began_s)


def _note(scope: Scope, status: int, duration_s: float) -> None:
    """Log and count an answer. Labels are bounded: the route's template stands for what was asked for."""
    method = scope["method"] if scope["method"] in _METHODS else "other"
    route = getattr(scope.get("route"), "path", "none")
    metrics.http_requests.labels(method, route, str(status) if status else "none").inc()
    metrics.http_seconds.labels(method, route).observe(duration_s)
    level = _log.debug if scope["path"] in _PROBES else _log.info
    # the path alone: queries hold the signatures of links
    level(
        "request",
        method=scope["method"],
        path=scope["path"],
        status=status,
        duration_ms=round(duration_s * 1000, 1),
    )


class Authentication:
    """What is protected needs a key, which the route finds in its request's state; and comes no faster than allowed."""

    def __init__(self, app: ASGIApp, platform: Platform, rate_limits: RateLimits) -> None:
        self._app = app
        self._platform = platform
        self._rate_limits = rate_limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PROTECTED):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            if self._platform.is_stopping:
                raise ShuttingDown()
            api_key = await run_in_threadpool(identify, self._platform, request.headers, datetime.now(UTC))
            scope["state"]["api_key"] = api_key
            structlog.contextvars.bind_contextvars(api_key_id=api_key.key_id, workspace_id=api_key.workspace_id)
            self._rate_limits.take_request(api_key)
        except PlatformError as error:
            _log_refusal(request, error)
            await error_response(request, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _log_refusal(request: Request, error: PlatformError) -> None:
    """Who tries keys must show in the log; the key itself never does."""
    if isinstance(error, Unauthenticated):
        client = request.client.host if request.client else "unknown"
        _log.warning("authentication_failed", reason=error.fields.get("reason"), client=client)


class BodyGuard:
    """Bodies are read into memory, so they have a limit, also those that do not tell their size. Uploads stream past.

    What could be kept in no database is refused here, for all routes: NUL, and halves of surrogate pairs; and what is
    nested so deeply that reading it fails.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            if "\0" in scope["path"] or b"%00" in scope["query_string"] or b"\0" in scope["query_string"]:
                raise InvalidParameter("The path and the query may not have NUL characters.")
            if scope["method"] != "POST" or scope["path"] not in UPLOADS:
                receive = await _read_body(request, receive)
        except PlatformError as error:
            await error_response(request, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


async def _read_body(request: Request, receive: Receive) -> Receive:
    """Read all of a small body; what comes back gives it once more, and then whatever comes after it.

    Raises: InvalidParameter
    """
    size = request.headers.get("content-length", "0")
    if size.isdigit() and int(size) > _MAX_BODY_BYTES:
        raise _too_large()
    pieces, num_bytes, has_more = [], 0, True
    while has_more:
        message = await receive()
        if message["type"] != "http.request":
            return _replay(message, receive)  # the client has left
        pieces.append(message.get("body", b""))
        num_bytes += len(pieces[-1])
        if num_bytes > _MAX_BODY_BYTES:
            raise _too_large()
        has_more = message.get("more_body", False)
    body = b"".join(pieces)
    if _UNKEEPABLE.search(body) or body.count(b"[") + body.count(b"{") > _MANY_BRACKETS:
        _check_json(body)
    return _replay({"type": "http.request", "body": body, "more_body": False}, receive)


def _replay(first: Message, receive: Receive) -> Receive:
    is_given = False

    async def receive_again() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return first

    return receive_again


def _too_large() -> InvalidParameter:
    return InvalidParameter("Payload Too Large.", code="BadRequest.TooLarge")


def _check_json(body: bytes) -> None:
    """Raises: InvalidParameter for what no database keeps, and for what no parser reads to its end"""
    try:
        contents = json.loads(body)
    except RecursionError as error:
        raise InvalidParameter("The body is nested too deeply.") from error
    except ValueError:
        return  # not JSON: the route says so
    if not all(_is_keepable(text) for text in _texts(contents)):
        raise InvalidParameter("Texts may have neither NUL characters nor halves of surrogate pairs.")


def _texts(contents: Any) -> list[str]:
    """Every string in a JSON document, keys too; without recursion, as a client chooses the depth."""
    found, waiting = [], [contents]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            waiting.extend(item.keys())
            waiting.extend(item.values())
    return found


def _is_keepable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
