"""From the body of a request over HTTP to an Utterance that is checked and has found its model, but says nothing yet."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from fastapi import Request
from starlette.types import Receive

from cosyforge.api.rate_limits import RateLimits
from cosyforge.api.speech_parameters import NO_TEXT, check_length, is_ssml, parse_parameters
from cosyforge.api.utterance import Origin, Utterance, client_left, find_voice, log_refused
from cosyforge.billing.characters import count_characters
from cosyforge.bootstrap import Platform
from cosyforge.errors import Internal, InvalidParameter, PlatformError
from cosyforge.registry.api_keys import ApiKey
from cosyforge.synthesis.request import AudioChunk, SynthesisRequest

TRACE_HEADER = "x-cosyforge-trace"
"""`enable`: say in the answer where the time went."""

_T = TypeVar("_T")


def wants_trace(header: str | None) -> bool:
    return (header or "").lower() == "enable"


async def json_object(request: Request) -> dict[str, Any]:
    """Raises: InvalidParameter when the body is something else"""
    try:
        body = json.loads(await request.body())
    except ValueError as error:
        raise InvalidParameter("The body is not valid JSON.") from error
    if not isinstance(body, dict):
        raise InvalidParameter("The body must be a JSON object.")
    return body


async def parse_speech(request: Request, body: dict[str, Any], platform: Platform, caller: ApiKey) -> Utterance:
    """The utterance that a DashScope body asks for.

    Raises: InvalidParameter, ModelNotFound, AccessDenied, NotReady
    """
    streaming = request.headers.get("x-dashscope-sse", "").lower() == "enable"

    def asked() -> tuple[str, str, SynthesisRequest]:
        model, text, values = _parts(body)
        parsed = parse_parameters(
            values, request_id=request.state.request_id, streaming=streaming, account=caller.workspace_id
        )
        return model, text, replace(parsed, enable_ssml=is_ssml(text, parsed.enable_ssml))

    return await make_utterance(request, platform, caller, "sse" if streaming else "http", body.get("model"), asked)


async def make_utterance(
    request: Request,
    platform: Platform,
    caller: ApiKey,
    transport: str,
    model: object,
    asked: Callable[[], tuple[str, str, SynthesisRequest]],
) -> Utterance:
    """Check what is asked (model, text, parameters) and find who speaks; a refusal gets its line in the log.

    Raises: what `asked` raises, and as parse_speech
    """
    trace = wants_trace(request.headers.get(TRACE_HEADER))
    rate_limits: RateLimits = request.app.state.rate_limits
    origin = Origin(transport, request.state.request_id, wants_trace=trace)
    try:
        name, text, wanted = asked()
        asked_voice = wanted.voice
        deployment, wanted = await to_thread.run_sync(find_voice, platform, caller, name, wanted, rate_limits)
        if not text.strip():
            raise InvalidParameter(NO_TEXT)
        check_length(count_characters(text, is_ssml=wanted.enable_ssml))
    except PlatformError as error:
        log_refused(model, origin, error)
        raise
    return Utterance(platform, caller, deployment, wanted, origin, text, asked_voice)


def _parts(body: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    model, given = body.get("model"), body.get("input")
    if not isinstance(model, str) or not model:
        raise InvalidParameter("model is missing.")
    if not isinstance(given, dict):
        raise InvalidParameter("task can not be null")
    beside = body.get("parameters")
    # some callers put the tuning fields beside the input
    values = {**(beside if isinstance(beside, dict) else {}), **given}
    text = values.get("text")
    if not isinstance(text, str):
        raise InvalidParameter("task can not be null")
    return model, text, values


@asynccontextmanager
async def watched(receive: Receive, utterance: Utterance) -> AsyncIterator[None]:
    """While the block runs, cancel the utterance when its client leaves or its time is over."""

    async def watch() -> None:
        with anyio.move_on_after(utterance.platform.settings.request_timeout_s):
            while (await receive())["type"] != "http.disconnect":
                pass
            utterance.cancel(client_left())
            return
        utterance.cancel(Internal("The request took too long.", code="RequestTimeOut"))

    problem: PlatformError | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        try:
            yield
        except PlatformError as error:
            problem = error  # raised outside the group, which would wrap it
        group.cancel_scope.cancel()
    if problem is not None:
        raise problem


async def in_thread(utterance: Utterance, limiter: CapacityLimiter, work: Callable[[], _T]) -> _T:
    """Blocking work of an utterance; when it fails the utterance has ended.

    The thread is left behind when we are cancelled: it ends as soon as the stream is closed.
    Raises: what the work raises
    """
    try:
        return await to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=True)
    except PlatformError as error:
        await end(utterance, error)
        raise


async def first_chunk(request: Request, utterance: Utterance, limiter: CapacityLimiter) -> AudioChunk | None:
    """Start speaking and wait for the first piece, so that what is wrong can still be a plain answer.

    Raises: as Utterance.open and next_chunk
    """

    def start() -> AudioChunk | None:
        utterance.open([utterance.text])
        return utterance.next_chunk()

    try:
        async with watched(request.receive, utterance):
            chunk = await in_thread(utterance, limiter, start)
    except BaseException:
        await end(utterance, Internal())  # for what nobody foresaw; harmless after another end
        raise
    return chunk


async def end(utterance: Utterance, error: PlatformError | None = None) -> None:
    """End an utterance, also while we are being cancelled ourselves."""
    with anyio.CancelScope(shield=True):
        await to_thread.run_sync(utterance.end, error)
