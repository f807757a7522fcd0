"""Watching a job or a deployment: its log lines and status changes as server-sent events, until nothing more can come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from cosyforge.api.context import Caller, PlatformParameter
from cosyforge.api.envelope import server_sent_event
from cosyforge.deployments.records import DeploymentStatus
from cosyforge.errors import NotFound
from cosyforge.jobs.records import FINAL

router = APIRouter(prefix="/api/v1", tags=["streams"])
_POLL_S = 0.3
_LINES_AT_ONCE = 1000

_Look = Callable[[int], tuple[list[str], str, bool]]
"""number of lines seen -> (new lines, status, whether it is over)"""


@router.get("/fine-tunes/{job_id}/stream")
async def stream_job(platform: PlatformParameter, caller: Caller, job_id: str) -> StreamingResponse:
    def look(num_seen: int) -> tuple[list[str], str, bool]:
        job = platform.jobs.get(caller.workspace_id, job_id)
        total, lines = platform.jobs.logs(caller.workspace_id, job_id, num_seen, _LINES_AT_ONCE)
        return lines, job.status, job.status in FINAL and num_seen + len(lines) == total

    return await _respond(look)


@router.get("/deployments/{deployed_model}/stream")
async def stream_deployment(platform: PlatformParameter, caller: Caller, deployed_model: str) -> StreamingResponse:
    settled = (DeploymentStatus.RUNNING, DeploymentStatus.FAILED, DeploymentStatus.STOPPED)

    def look(num_seen: int) -> tuple[list[str], str, bool]:
        deployment = platform.deployments.get(caller.workspace_id, deployed_model)
        messages = [message for _, message in platform.deployments.events(caller.workspace_id, deployed_model)]
        return messages[num_seen:], deployment.status, deployment.status in settled

    return await _respond(look)


async def _respond(look: _Look) -> StreamingResponse:
    await run_in_threadpool(look, 0)  # what is not there is a plain 404
    return StreamingResponse(_events(look), media_type="text/event-stream")


async def _events(look: _Look) -> AsyncIterator[bytes]:
    number, num_seen, status, is_over = 0, 0, "", False
    while not is_over:
        try:
            lines, new_status, is_over = await run_in_threadpool(look, num_seen)
        except NotFound:  # deleted while we looked
            return
        num_seen += len(lines)
        bodies: list[dict[str, Any]] = [{"type": "log", "message": line} for line in lines]
        if new_status != status:
            bodies.append({"type": "status", "status": new_status})
            status = new_status
        for body in bodies:
            number += 1
            yield server_sent_event(number, "result", 200, body)
        if not is_over:
            await anyio.sleep(_POLL_S)
