"""What the service we are compatible with has no call for: a deployment's replicas, stopping it and starting it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from cosyforge.api.context import Caller, PlatformParameter, iso_time, now
from cosyforge.api.deployments import deployment_json
from cosyforge.api.envelope import answer
from cosyforge.bootstrap import Platform
from cosyforge.deployments.backend import ReplicaState
from cosyforge.deployments.records import Deployment

router = APIRouter(prefix="/platform/v1/deployments", tags=["deployments"])


@router.get("/{deployed_model}")
def inspect_deployment(
    request: Request, platform: PlatformParameter, caller: Caller, deployed_model: str
) -> JSONResponse:
    """The deployment, what is wanted of it, and every replica that it has now."""
    deployment = platform.deployments.get(caller.workspace_id, deployed_model)
    return answer(request, _inspection(platform, deployment))


@router.post("/{deployed_model}/stop")
def stop_deployment(request: Request, platform: PlatformParameter, caller: Caller, deployed_model: str) -> JSONResponse:
    """No replicas and no bill until it is started; what is being spoken is spoken to its end."""
    deployment = platform.deployments.stop(caller.workspace_id, deployed_model, now())
    return answer(request, _inspection(platform, deployment))


@router.post("/{deployed_model}/start")
def start_deployment(
    request: Request, platform: PlatformParameter, caller: Caller, deployed_model: str
) -> JSONResponse:
    """Bring back a deployment that was stopped or has failed, with the capacity that it had."""
    deployment = platform.deployments.start(caller.workspace_id, deployed_model, now())
    return answer(request, _inspection(platform, deployment))


def _inspection(platform: Platform, deployment: Deployment) -> dict[str, Any]:
    replicas = [_replica_json(platform, state, busy) for state, busy in platform.router.replicas(deployment)]
    return {
        **deployment_json(platform, deployment),
        "wanted": str(deployment.wanted),
        "is_taken_up": not deployment.has_news,
        "billed_units": deployment.billed_units,
        "replicas": replicas,
    }


def _replica_json(platform: Platform, state: ReplicaState, num_in_flight: int) -> dict[str, Any]:
    """Units: silent_s in seconds since a ping is owed an answer, rss_mb in MiB"""
    return {
        "replica_id": state.replica_id,
        "pid": state.pid,
        "state": str(state.phase),
        "since": iso_time(platform, state.started_at, with_ms=True),
        "restarts": state.restarts,
        "in_flight": num_in_flight,
        "rss_mb": None if state.rss_mb is None else round(state.rss_mb, 1),
        "silent_s": round(state.silent_s, 1),
    }
