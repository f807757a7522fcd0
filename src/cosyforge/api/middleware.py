"""What happens to every request before its route: an id, a log line, the key, and the last catch for errors."""

from __future__ import annotations

import time
from uuid import uuid4

import structlog
from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cosyforge.api.envelope import error_response
from cosyforge.errors import Internal, InvalidParameter, PlatformError, Unauthenticated
from cosyforge.registry.api_keys import ApiKeys

_log = structlog.get_logger()
_PROTECTED = ("/api/", "/platform/")
_MAX_JSON_BYTES = 4 << 20
_QUIET = ("/healthz", "/readyz")


class RequestContext:
    """Gives every request an id: in its state, in its logs, in the x-request-id header of the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = str(uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started_at = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            # the API's last handler: whatever it was, the client gets the envelope
            _log.exception("request_crashed")
            if status == 0:
                await error_response(Request(scope), Internal())(scope, receive, send_with_id)
        finally:
            level = _log.debug if scope["path"] in _QUIET else _log.info
            level(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                duration_ms=round((time.perf_counter() - started_at) * 1000, 1),
            )


class Authentication:
    """Everything below /api and /platform needs a key; the route finds it in its request's state."""

    def __init__(self, app: ASGIApp, api_keys: ApiKeys) -> None:
        self._app = app
        self._api_keys = api_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_PROTECTED):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            secret = bearer_secret(request.headers.get("authorization"))
            scope["state"]["api_key"] = await run_in_threadpool(self._api_keys.authenticate, secret)
            _refuse_large_json(request)
        except PlatformError as error:
            await error_response(request, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def bearer_secret(header: str | None) -> str:
    """Raises: Unauthenticated when the header is missing or of another kind"""
    scheme, _, secret = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthenticated()
    return secret.strip()


def _refuse_large_json(request: Request) -> None:
    """Uploads have their own limit; other bodies are read into memory."""
    size = request.headers.get("content-length", "0")
    is_multipart = request.headers.get("content-type", "").startswith("multipart/")
    if not is_multipart and size.isdigit() and int(size) > _MAX_JSON_BYTES:
        raise InvalidParameter("Payload Too Large.", code="BadRequest.TooLarge")
