"""What is ours alone, under /platform/v1, so that /api/v1 stays what it is elsewhere."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from cosyforge.api.context import Caller, PlatformParameter, iso_time
from cosyforge.api.envelope import answer

router = APIRouter()


@router.get("/platform/v1/deployments/{deployed_model}/events", tags=["deployments"])
def list_deployment_events(
    request: Request, platform: PlatformParameter, caller: Caller, deployed_model: str
) -> JSONResponse:
    """What happened to a deployment and why, the oldest first."""
    events = platform.deployments.events(caller.workspace_id, deployed_model)
    shown = [{"time": iso_time(platform, at, with_ms=True), "message": message} for at, message in events]
    return answer(request, {"events": shown})
