"""What is ours alone, under /platform/v1, so that /api/v1 stays what it is elsewhere; and the health of the server."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from cosyforge.api.context import Caller, PlatformParameter, iso_time, now
from cosyforge.api.envelope import answer
from cosyforge.billing.tariff import money

router = APIRouter()


@router.get("/healthz", tags=["health"])
async def healthz() -> JSONResponse:
    """The process answers."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz", tags=["health"])
def readyz(platform: PlatformParameter) -> JSONResponse:
    """The database answers and the background threads make progress."""
    with platform.database.read():
        is_ready = platform.is_ready
    return JSONResponse({"status": "ok" if is_ready else "not ready"}, 200 if is_ready else 503)


@router.get("/platform/v1/usage", tags=["billing"])
def get_usage(request: Request, platform: PlatformParameter, caller: Caller) -> JSONResponse:
    """What this workspace has used, up to now; costs in CNY."""
    usage = platform.meter.usage_of(caller.workspace_id, now())
    trainings = [
        {
            "job_id": entry.subject,
            "model": entry.model,
            "tokens": entry.quantity,
            "cost_cny": money(cost),
            "time": iso_time(platform, entry.at),
        }
        for entry, cost in usage.trainings
    ]
    deployments = [
        {
            "deployed_model": item.deployed_model,
            "model_unit_spec": item.model_unit_spec,
            "unit_seconds": str(item.unit_seconds),
            "units_now": item.units_now,
            "cost_cny": money(cost),
            "start_time": iso_time(platform, item.started_at),
        }
        for item, cost in usage.deployments
    ]
    synthesis = [
        {
            "model": item.model,
            "characters": item.characters,
            "requests": item.num_requests,
            "cost_cny": money(item.cost_cny),
        }
        for item in usage.characters
    ]
    output: dict[str, Any] = {"trainings": trainings, "deployments": deployments, "synthesis": synthesis}
    return answer(request, {**output, "total_cny": money(usage.total_cny)})


@router.get("/platform/v1/deployments/{deployed_model}/events", tags=["deployments"])
def list_deployment_events(
    request: Request, platform: PlatformParameter, caller: Caller, deployed_model: str
) -> JSONResponse:
    """What happened to a deployment and why, the oldest first."""
    events = platform.deployments.events(caller.workspace_id, deployed_model)
    shown = [{"time": iso_time(platform, at, with_ms=True), "message": message} for at, message in events]
    return answer(request, {"events": shown})
