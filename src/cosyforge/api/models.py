"""The models that a workspace may train from, deploy or speak with."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from cosyforge.api.context import Caller, PageNo, PlatformParameter, iso_time
from cosyforge.api.envelope import answer
from cosyforge.bootstrap import Platform
from cosyforge.deployments.catalogue import CatalogueEntry

router = APIRouter(prefix="/api/v1/models", tags=["models"])


@router.get("")
def list_models(
    request: Request,
    platform: PlatformParameter,
    caller: Caller,
    page_no: PageNo = 1,
    page_size: Annotated[int, Query(ge=1, le=100)] = 10,
    model: str | None = None,
) -> JSONResponse:
    """The base model and the workspace's own; with `model` that one alone, which is how official clients get one."""
    if model:
        found = platform.catalogue.find(caller.workspace_id, model)
        total = 0 if found is None else 1
        entries = [found] if found is not None and page_no == 1 else []
    else:
        total, entries = platform.catalogue.page(caller.workspace_id, page_no, page_size)
    shown = [_model_json(platform, entry) for entry in entries]
    return answer(request, {"page_no": page_no, "page_size": page_size, "total": total, "models": shown})


def _model_json(platform: Platform, entry: CatalogueEntry) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "model": entry.model_name,
        "name": entry.display_name,
        "model_name": entry.model_name,
        "base_model": entry.base_model,
        "model_source": "base" if entry.is_base else "custom",
    }
    if entry.tuned is not None:
        shown |= {
            "job_id": entry.tuned.job_id,
            "checkpoint": entry.tuned.checkpoint,
            "gmt_create": iso_time(platform, entry.tuned.created_at),
        }
    return shown
