"""Watching a job or a deployment: its log lines and status changes as server-sent events, until nothing more can come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from cosyforge.api.context import Caller, PlatformParameter, iso_time
from cosyforge.api.envelope import server_sent_event
from cosyforge.bootstrap import Platform
from cosyforge.errors import NotFound
from cosyforge.jobs.records import FINAL

router = APIRouter(prefix="/api/v1", tags=["streams"])
_POLL_S = 0.3
_LINES_AT_ONCE = 1000
_EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


@router.get("/fine-tunes/{job_id}/stream", response_class=StreamingResponse, responses=_EVENTS)
async def stream_job(
    platform: PlatformParameter, caller: Caller, job_id: str, last_event_id: Annotated[str, Header()] = ""
) -> StreamingResponse:
    """The log of a job from its first line, or from the line behind `Last-Event-ID`, and its status as it changes.

    Ends when the job has ended and every line was sent.
    """
    await run_in_threadpool(platform.jobs.get, caller.workspace_id, job_id)  # what is not there is a plain 404
    num_seen = int(last_event_id) if last_event_id.isdecimal() and len(last_event_id) < 10 else 0
    events = _job_events(platform, caller.workspace_id, job_id, num_seen)
    return StreamingResponse(events, media_type="text/event-stream")


async def _job_events(platform: Platform, workspace_id: str, job_id: str, num_seen: int) -> AsyncIterator[bytes]:
    """The id of an event is the number of lines up to it, so that a client can go on where it was."""
    status = ""
    while not platform.is_stopping:
        try:
            job = await run_in_threadpool(platform.jobs.get, workspace_id, job_id)
            total, lines = await run_in_threadpool(platform.jobs.logs, workspace_id, job_id, num_seen, _LINES_AT_ONCE)
        except NotFound:  # deleted while we looked
            return
        for line in lines:
            num_seen += 1
            yield server_sent_event(num_seen, "result", 200, {"type": "log", "message": line})
        if num_seen < total:
            continue
        if job.status != status:
            status = job.status
            yield server_sent_event(num_seen, "result", 200, {"type": "status", "status": status})
        if status in FINAL:
            return
        await anyio.sleep(_POLL_S)


@router.get("/deployments/{deployed_model}/stream", response_class=StreamingResponse, responses=_EVENTS)
async def stream_deployment(
    platform: PlatformParameter, caller: Caller, deployed_model: str, last_event_id: Annotated[str, Header()] = ""
) -> StreamingResponse:
    """Everything that happened to a deployment since it was made, or since `Last-Event-ID`, then what happens.

    Ends when the deployment is gone.
    """
    deployment = await run_in_threadpool(platform.deployments.get, caller.workspace_id, deployed_model)
    num_seen = int(last_event_id) if last_event_id.isdecimal() and len(last_event_id) < 10 else 0
    events = _deployment_events(platform, deployment.deployment_id, num_seen)
    return StreamingResponse(events, media_type="text/event-stream")


async def _deployment_events(platform: Platform, deployment_id: str, num_seen: int) -> AsyncIterator[bytes]:
    """The id of an event is its number in the history."""
    number, last_id, is_gone = 0, 0, False
    while not (is_gone or platform.is_stopping):
        events, is_gone = await run_in_threadpool(platform.deployments.news, deployment_id, last_id)
        for event in events:
            number, last_id = number + 1, event.event_id
            if number <= num_seen:
                continue
            body = {"type": "log" if event.status is None else "status", "message": event.message}
            if event.status is not None:
                body["status"] = event.status
            yield server_sent_event(number, "result", 200, body | {"time": iso_time(platform, event.at, with_ms=True)})
        if not is_gone:
            await anyio.sleep(_POLL_S)
