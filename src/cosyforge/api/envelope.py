"""The shape of every answer: request_id and output, or code and message. One table maps errors to the wire."""

from __future__ import annotations

import json
import math
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
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
    errors.ShuttingDown: (503, "ServiceUnavailable"),
    errors.Internal: (500, "InternalError"),
    errors.PlatformError: (500, "InternalError"),
}

OPENAI_PREFIXES = ("/compatible-mode/", "/v1/")
"""Below these, errors have the shape that OpenAI's clients read."""

_OPENAI_TYPE = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ErrorBody(BaseModel):
    """Every error."""

    request_id: str
    code: str
    message: str


class OpenAIError(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class OpenAIErrorBody(BaseModel):
    """Every error of the routes for OpenAI's clients."""

    error: OpenAIError
    request_id: str


_MEANING = {
    400: "A parameter or the state of things does not allow it",
    401: "No key, or one that is not valid",
    403: "Not for this caller",
    404: "Not there, or not yours",
    405: "Not with this method",
    409: "The name is taken",
    429: "Too many requests; Retry-After says when to come back",
    500: "Our fault",
    503: "The server is stopping",
}

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": meaning} for status, meaning in _MEANING.items()
}
"""What any route may answer besides its success; `create_app` documents it for every router, so that no route has to.

A route with a status of its own says so by `responses=` of its decorator, which adds to these.
"""

OPENAI_ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": OpenAIErrorBody, "description": meaning} for status, meaning in _MEANING.items()
}
"""The same for a router of OpenAI's: give it to the router itself, `APIRouter(responses=OPENAI_ERROR_RESPONSES)`."""


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
    return _error_json(request, status, code, error.message, _retry_headers(status, error), error.fields.get("param"))


def _error_json(
    request: Request, status: int, code: str, message: str, headers: dict[str, str], param: object = None
) -> JSONResponse:
    request_id = request.state.request_id
    if not request.url.path.startswith(OPENAI_PREFIXES):
        return JSONResponse(error_body(request_id, code, message), status, headers)
    kind = _OPENAI_TYPE.get(status, "server_error" if status >= 500 else "invalid_request_error")
    error = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": error, "request_id": request_id}, status, headers)


def _retry_headers(status: int, error: errors.PlatformError) -> dict[str, str]:
    """Clients repeat 409, 429, 500 and 503 by themselves, also a POST: tell them when to, and when it cannot help."""
    if status in (429, 503):
        wait_s = error.fields.get("retry_after_s", 1)
        assert isinstance(wait_s, int | float)
        return {"retry-after": str(max(1, math.ceil(wait_s)))}
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
    found = error.errors()
    problems = "; ".join(_problem(details["loc"], details["msg"]) for details in found)
    return error_response(request, errors.InvalidParameter(problems, param=str(found[0]["loc"][-1])))


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
    return _error_json(request, error.status_code, code, str(error.detail), dict(error.headers or {}))
