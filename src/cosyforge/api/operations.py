"""What watches the server: is it alive, is it ready and if not why, and its figures for Prometheus."""

from __future__ import annotations

import ipaddress
import shutil

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from cosyforge import metrics
from cosyforge.api.auth import identify, require_admin
from cosyforge.api.context import PlatformParameter, now
from cosyforge.bootstrap import Platform
from cosyforge.errors import AccessDenied, Internal, NotFound

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> JSONResponse:
    """The process answers."""
    return JSONResponse({"status": "ok"})


class Readiness(BaseModel):
    status: str
    reasons: list[str]


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness, "description": "Not ready"}})
def readyz(platform: PlatformParameter) -> JSONResponse:
    """Whether to send it work. `reasons` says why not, in words for an operator."""
    reasons = _reasons(platform)
    body = {"status": "not ready" if reasons else "ok", "reasons": reasons}
    return JSONResponse(body, 503 if reasons else 200)


@router.get("/metrics", response_class=Response)
async def get_metrics(request: Request, platform: PlatformParameter) -> Response:
    """In Prometheus' text format; the setting `metrics_access` says for whom."""
    access = platform.settings.metrics_access
    if access == "off":
        raise NotFound()
    if access == "key":
        # figures name the models of every workspace
        require_admin(await run_in_threadpool(identify, platform, request.headers, now()))
    elif not _is_from_this_machine(request):
        raise AccessDenied("/metrics is for this machine alone; set COSYFORGE_METRICS_ACCESS=key to open it by key.")
    text = await run_in_threadpool(generate_latest, metrics.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _reasons(platform: Platform) -> list[str]:
    reasons = ["the server is stopping"] if platform.is_stopping else []
    try:
        with platform.database.read() as connection:
            connection.execute(select(1))
    except (SQLAlchemyError, Internal) as error:
        reasons.append(f"the database does not answer: {error}")
    free = shutil.disk_usage(platform.settings.data_dir).free
    if free < platform.settings.min_free_disk_bytes:
        reasons.append(
            f"the disk of {platform.settings.data_dir} has {free >> 20} MiB left of the "
            f"{platform.settings.min_free_disk_bytes >> 20} MiB that must stay free (min_free_disk_bytes)"
        )
    return reasons + platform.loop_problems()


def _is_from_this_machine(request: Request) -> bool:
    """A proxy on this machine tells for whom it asks; uvicorn then puts that address in place of the proxy's."""
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:  # no address: a Unix socket
        return False
