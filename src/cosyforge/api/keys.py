"""Keys and workspaces: temporary tokens for everybody, and the management of both for administrators."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from cosyforge.api.auth import require_admin
from cosyforge.api.context import Caller, PageNo, PlatformParameter, iso_time, now
from cosyforge.api.envelope import answer
from cosyforge.bootstrap import Platform
from cosyforge.registry.api_keys import MAX_TOKEN_LIFETIME_S, ApiKey
from cosyforge.registry.workspaces import Workspace

router = APIRouter(tags=["keys"])

_PageSize = Annotated[int, Query(ge=1, le=1000)]
_MAX_LIFETIME_S = 100 * 366 * 86_400


class CreateKey(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    workspace_id: str | None = Field(None, max_length=64)
    expires_in_s: int | None = Field(None, ge=1, le=_MAX_LIFETIME_S)
    is_admin: bool = False


class CreateWorkspace(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    workspace_id: str = Field(max_length=64)
    name: str | None = Field(None, min_length=1, max_length=200)


@router.post("/api/v1/tokens")
def create_token(
    platform: PlatformParameter,
    caller: Caller,
    expire_in_seconds: Annotated[int, Query(ge=1, le=MAX_TOKEN_LIFETIME_S)] = 60,
) -> JSONResponse:
    """A key for a while, to hand to a browser or a phone; it ends with its key. Without the usual envelope."""
    token, expires_at = platform.api_keys.issue_token(caller, expire_in_seconds, now())
    return JSONResponse({"token": token, "expires_at": int(expires_at.timestamp())})


@router.get("/platform/v1/keys")
def list_keys(
    request: Request, platform: PlatformParameter, caller: Caller, page_no: PageNo = 1, page_size: _PageSize = 100
) -> JSONResponse:
    """The keys of all workspaces, without their secrets."""
    require_admin(caller)
    total, keys = platform.api_keys.page(page_no, page_size)
    shown = [_key_json(platform, key, now()) for key in keys]
    return answer(request, {"page_no": page_no, "page_size": page_size, "total": total, "keys": shown})


@router.post("/platform/v1/keys")
def create_key(request: Request, platform: PlatformParameter, caller: Caller, body: CreateKey) -> JSONResponse:
    """`api_key` is the secret, which is never shown again."""
    require_admin(caller)
    key, secret = platform.api_keys.create(
        body.name,
        body.workspace_id or caller.workspace_id,
        now(),
        is_admin=body.is_admin,
        expires_in_s=body.expires_in_s,
    )
    return answer(request, {**_key_json(platform, key, now()), "api_key": secret})


@router.delete("/platform/v1/keys/{key_id}")
def revoke_key(
    request: Request,
    platform: PlatformParameter,
    caller: Caller,
    key_id: Annotated[int, Path(ge=1, le=2**31 - 1)],
) -> JSONResponse:
    """Refuse a key from now on; it stays in the list."""
    require_admin(caller)
    return answer(request, _key_json(platform, platform.api_keys.revoke(key_id, now()), now()))


@router.get("/platform/v1/workspaces")
def list_workspaces(
    request: Request, platform: PlatformParameter, caller: Caller, page_no: PageNo = 1, page_size: _PageSize = 100
) -> JSONResponse:
    require_admin(caller)
    total, workspaces = platform.workspaces.page(page_no, page_size)
    shown = [_workspace_json(platform, workspace) for workspace in workspaces]
    return answer(request, {"page_no": page_no, "page_size": page_size, "total": total, "workspaces": shown})


@router.post("/platform/v1/workspaces")
def create_workspace(
    request: Request, platform: PlatformParameter, caller: Caller, body: CreateWorkspace
) -> JSONResponse:
    require_admin(caller)
    workspace = platform.workspaces.create(body.workspace_id, body.name or body.workspace_id, now())
    return answer(request, _workspace_json(platform, workspace))


@router.delete("/platform/v1/workspaces/{workspace_id}")
def delete_workspace(request: Request, platform: PlatformParameter, caller: Caller, workspace_id: str) -> JSONResponse:
    """An empty one, without keys that work."""
    require_admin(caller)
    return answer(request, _workspace_json(platform, platform.workspaces.delete(workspace_id)))


def _key_json(platform: Platform, key: ApiKey, moment: datetime) -> dict[str, Any]:
    def shown(time: datetime | None) -> str | None:
        return None if time is None else iso_time(platform, time)

    return {
        "key_id": key.key_id,
        "name": key.name,
        "workspace_id": key.workspace_id,
        "hint": key.hint,
        "is_admin": key.is_admin,
        "status": key.status(moment),
        "create_time": shown(key.created_at),
        "expire_time": shown(key.expires_at),
        "last_used_time": shown(key.last_used_at),
        "revoke_time": shown(key.revoked_at),
    }


def _workspace_json(platform: Platform, workspace: Workspace) -> dict[str, Any]:
    return {
        "workspace_id": workspace.workspace_id,
        "name": workspace.name,
        "create_time": iso_time(platform, workspace.created_at),
    }
