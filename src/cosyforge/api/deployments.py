"""Deployments and the models that can be deployed."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from cosyforge.api.context import Caller, PageNo, PlatformParameter, iso_time, now
from cosyforge.api.envelope import answer
from cosyforge.bootstrap import Platform
from cosyforge.deployments.catalogue import CatalogueEntry
from cosyforge.deployments.records import Deployment
from cosyforge.deployments.service import DeploymentRequest
from cosyforge.deployments.templates import TEMPLATES
from cosyforge.errors import InvalidParameter

router = APIRouter(prefix="/api/v1/deployments", tags=["deployments"])
_VERSIONS = ("v1.0", "v1")


class CreateDeployment(BaseModel):
    """Unknown fields are ignored, as official clients send some; so are the ones of which null or "" means absent."""

    model_config = ConfigDict(strict=True, protected_namespaces=())

    model_name: str
    capacity: int
    deploy_spec: str | None = None
    template_id: str | None = None
    plan: str | None = None
    billing_method: str | None = None
    name: str | None = Field(None, max_length=200)
    suffix: str | None = None
    rpm_limit: int | None = None
    tpm_limit: int | None = None


class ScaleDeployment(BaseModel):
    model_config = ConfigDict(strict=True)

    capacity: int


class UpdateDeployment(BaseModel):
    model_config = ConfigDict(strict=True)

    rpm_limit: int | None = None
    tpm_limit: int | None = None


@router.get("/models")
def list_deployable_models(
    request: Request,
    platform: PlatformParameter,
    caller: Caller,
    page_no: PageNo = 1,
    page_size: Annotated[int, Query(ge=1, le=100)] = 50,
    model_source: str | None = None,
    version: str | None = None,
) -> JSONResponse:
    """Models and templates of the asked source, of both without one. There is one version of them, v1.0."""
    if model_source not in (None, "", "custom", "base"):
        raise InvalidParameter(f"model_source must be custom or base (got {model_source}).")
    total, entries = 0, list[CatalogueEntry]()
    if not version or version in _VERSIONS:
        total, entries = platform.catalogue.page(
            caller.workspace_id,
            page_no,
            page_size,
            with_base=model_source != "custom",
            with_tuned=model_source != "base",
        )
    shown = [_model_json(entry) for entry in entries]
    return answer(request, {"page_no": page_no, "page_size": page_size, "total": total, "models": shown})


@router.post("")
def create_deployment(
    request: Request, platform: PlatformParameter, caller: Caller, body: CreateDeployment
) -> JSONResponse:
    deployment = platform.deployments.create(
        DeploymentRequest(
            model_name=body.model_name,
            capacity=body.capacity,
            deploy_spec=body.deploy_spec or body.template_id,
            plan=body.plan,
            billing_method=body.billing_method,
            name=body.name,
            suffix=body.suffix,
            rpm_limit=body.rpm_limit,
            tpm_limit=body.tpm_limit,
        ),
        caller.workspace_id,
        caller.user_id,
        now(),
    )
    return answer(request, deployment_json(platform, deployment, with_ms=True))


@router.get("")
def list_deployments(
    request: Request,
    platform: PlatformParameter,
    caller: Caller,
    page_no: PageNo = 1,
    page_size: Annotated[int, Query(ge=1, le=200)] = 50,
) -> JSONResponse:
    total, deployments = platform.deployments.page(caller.workspace_id, page_no, page_size)
    shown = [deployment_json(platform, deployment) for deployment in deployments]
    return answer(request, {"page_no": page_no, "page_size": page_size, "total": total, "deployments": shown})


@router.get("/{deployed_model}")
def get_deployment(request: Request, platform: PlatformParameter, caller: Caller, deployed_model: str) -> JSONResponse:
    return answer(request, deployment_json(platform, platform.deployments.get(caller.workspace_id, deployed_model)))


@router.put("/{deployed_model}/scale")
def scale_deployment(
    request: Request, platform: PlatformParameter, caller: Caller, deployed_model: str, body: ScaleDeployment
) -> JSONResponse:
    deployment = platform.deployments.scale(caller.workspace_id, deployed_model, body.capacity, now())
    return answer(request, deployment_json(platform, deployment))


@router.put("/{deployed_model}/update")
def update_deployment(
    request: Request, platform: PlatformParameter, caller: Caller, deployed_model: str, body: UpdateDeployment
) -> JSONResponse:
    deployment = platform.deployments.set_limits(
        caller.workspace_id, deployed_model, body.rpm_limit, body.tpm_limit, now()
    )
    return answer(request, deployment_json(platform, deployment))


@router.delete("/{deployed_model}")
def delete_deployment(
    request: Request, platform: PlatformParameter, caller: Caller, deployed_model: str
) -> JSONResponse:
    deployment = platform.deployments.delete(caller.workspace_id, deployed_model, now())
    return answer(request, deployment_json(platform, deployment))


def _model_json(entry: CatalogueEntry) -> dict[str, Any]:
    return {
        "model_name": entry.model_name,
        "base_model": entry.base_model,
        "model_display_name": entry.display_name,
        "model_source": "base" if entry.is_base else "custom",
        "plans": [{"plan": "mu", "templates": [template.to_json() for template in TEMPLATES]}],
    }


def deployment_json(platform: Platform, deployment: Deployment, *, with_ms: bool = False) -> dict[str, Any]:
    """A deployment as the contract shows it. with_ms: as at creation"""
    shown = {
        "deployed_model": deployment.deployed_model,
        "gmt_create": iso_time(platform, deployment.created_at, with_ms=with_ms),
        "gmt_modified": iso_time(platform, deployment.modified_at, with_ms=with_ms),
        "status": str(deployment.state),
        "name": deployment.name,
        "model_name": deployment.model_name,
        "base_model": deployment.base_model,
        "base_capacity": deployment.base_capacity,
        "capacity": deployment.capacity,
        "ready_capacity": deployment.ready_capacity,
        "model_unit_spec": deployment.model_unit_spec,
        "deploy_spec": deployment.template_id,
        "workspace_id": deployment.workspace_id,
        "charge_type": "post_paid",
        "plan": "mu",
        "creator": deployment.creator,
        "modifier": deployment.creator,
    }
    for name in ("rpm_limit", "tpm_limit", "message"):
        if getattr(deployment, name) is not None:
            shown[name] = getattr(deployment, name)
    return shown
