"""Who is calling: bearer key -> the key's record and workspace, for HTTP and for sockets alike."""

from __future__ import annotations

from datetime import datetime

from starlette.datastructures import Headers

from cosyforge.bootstrap import Platform
from cosyforge.errors import AccessDenied, NotFound, Unauthenticated
from cosyforge.registry.api_keys import ApiKey

PROTECTED = ("/api/", "/platform/", "/compatible-mode/", "/v1/")
"""Below these nothing is answered without a key. Sockets below /api-ws/ call `identify` themselves."""

_WORKSPACE_HEADER = "x-dashscope-workspace"


def identify(platform: Platform, headers: Headers, now: datetime) -> ApiKey:
    """The key of a request, checked against the database each time. Blocks: call it in a thread.

    Raises: Unauthenticated; AccessDenied, NotFound when the request names a workspace that is not the key's
    """
    key = platform.api_keys.authenticate(bearer_secret(headers.get("authorization")), now)
    workspace_id = headers.get(_WORKSPACE_HEADER, "").strip()
    if workspace_id and workspace_id != key.workspace_id:
        if platform.workspaces.exists(workspace_id):
            raise AccessDenied("Workspace access denied.", code="Workspace.AccessDenied")
        raise NotFound("There is no such workspace.", code="WorkSpaceNotFound")
    return key


def bearer_secret(header: str | None) -> str:
    """Raises: Unauthenticated when the header is missing or of another kind"""
    scheme, _, secret = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthenticated(reason="missing")
    return secret.strip()


def require_admin(key: ApiKey) -> None:
    """Raises: AccessDenied"""
    if not key.is_admin:
        raise AccessDenied("Only an administrator's API key may do this; make one by `cosyforge keys create --admin`.")
