"""The shape of every answer: request_id and output, or code and message. One table maps errors to the wire."""

from __future__ import annotations

import json
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from cosyforge import errors

_log = structlog.get_logger()

_WIRE: dict[type[errors.PlatformError], tuple[int, str]] = {
    errors.InvalidParameter: (400, "InvalidParameter"),
    errors.Unauthenticated: (401, "InvalidApiKey"),
    errors.AccessDenied: (403, "AccessDenied"),
    errors.NotFound: (404, "NotFound"),
    errors.ModelNotFound: (404, "ModelNotFound"),
    errors.Conflict: (409, "Conflict"),
    errors.UnsupportedOperation: (400, "UnsupportedOperation"),
    errors.NotReady: (400, "InvalidParameter"),
    errors.Throttled: (429, "Throttling.RateQuota"),
    errors.Internal: (500, "InternalError"),
    errors.PlatformError: (500, "InternalError"),
}


def wire_error(error: errors.PlatformError) -> tuple[int, str]:
    """HTTP status and code of an error; its field `code` may name a finer code of the same status."""
    kind = next(kind for kind in type(error).__mro__ if kind in _WIRE)
    status, code = _WIRE[kind]
    return status, str(error.fields.get("code", code))


def answer(request: Request, output: Any, **more: Any) -> JSONResponse:
    """A success. Nothing but request_id, output and what a route must add may stand at the top: clients lift it."""
    return JSONResponse({"request_id": request.state.request_id, "output": output, **more})


def error_body(request_id: str, code: str, message: str) -> dict[str, str]:
    return {"request_id": request_id, "code": code, "message": message}


def server_sent_event(number: int, kind: str, status: int, body: dict[str, Any]) -> bytes:
    """DashScope's framing: id, event, status, data on one line.

    The status stands there twice: as a comment, and for errors as a field, which is the one that some clients read.
    """
    lines = [f"id:{number}", f"event:{kind}", f":HTTP_STATUS/{status}"]
    if kind == "error":
        lines.append(f"status:{status}")
    lines.append(f"data:{json.dumps(body, ensure_ascii=False)}")
    return ("\n".join(lines) + "\n\n").encode()


def error_response(request: Request, error: errors.PlatformError) -> JSONResponse:
    status, code = wire_error(error)
    return JSONResponse(
        error_body(request.state.request_id, code, error.message), status, _retry_headers(status, error)
    )


def _retry_headers(status: int, error: errors.PlatformError) -> dict[str, str]:
    """Clients repeat 409, 429 and 500 by themselves, also a POST: tell them when that cannot help."""
    if status == 429:
        return {"retry-after": "1"}
    is_hopeless = status == 409 or (status == 500 and not error.fields.get("is_temporary"))
    return {"x-should-retry": "false"} if is_hopeless else {}


def install_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(errors.PlatformError, _platform_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


async def _platform_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.PlatformError)
    if wire_error(error)[0] >= 500:
        _log.error("request_failed", error=error.message)
    return error_response(request, error)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = "; ".join(_problem(details["loc"], details["msg"]) for details in error.errors())
    return error_response(request, errors.InvalidParameter(problems))


def _problem(location: tuple[int | str, ...], message: str) -> str:
    """`hyper_parameters.lm_step: Field required`; the first part only says body or query."""
    if message.startswith("JSON decode error"):
        return "The body is not valid JSON."
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location[1:]).lstrip(".")
    return f"{name or 'body'}: {message}"


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    """What the framework itself refuses, such as an unknown route."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response(request, errors.NotFound())
    code = "MethodNotAllowed" if error.status_code == 405 else "InvalidParameter"
    body = error_body(request.state.request_id, code, str(error.detail))
    return JSONResponse(body, error.status_code, error.headers)
