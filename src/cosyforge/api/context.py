"""What routes share: the platform, the caller, and how times are written."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Query, Request

from cosyforge.bootstrap import Platform
from cosyforge.registry.api_keys import ApiKey


def _platform(request: Request) -> Platform:
    platform: Platform = request.app.state.platform
    return platform


def _caller(request: Request) -> ApiKey:
    api_key: ApiKey = request.state.api_key
    return api_key


PlatformParameter = Annotated[Platform, Depends(_platform)]
Caller = Annotated[ApiKey, Depends(_caller)]
PageNo = Annotated[int, Query(ge=1, le=2**31)]


def now() -> datetime:
    return datetime.now(UTC)


def date_and_time(platform: Platform, moment: datetime) -> str:
    """2026-05-27 17:43:02"""
    return f"{platform.local_time(moment):%Y-%m-%d %H:%M:%S}"


def iso_time(platform: Platform, moment: datetime, *, with_ms: bool = False) -> str:
    """2026-05-27T17:43:02, with .512 where the service we are compatible with shows milliseconds"""
    local = platform.local_time(moment)
    return f"{local:%Y-%m-%dT%H:%M:%S}" + (f".{local.microsecond // 1000:03d}" if with_ms else "")


def link_to(platform: Platform, request: Request, artifact: str, expires_at: int) -> str:
    """A signed link as seen by whoever sent the request.

    Units: expires_at in Unix seconds
    """
    start = platform.settings.public_url or f"{request.url.scheme}://{request.url.netloc}"
    return start.rstrip("/") + platform.links.sign(artifact, expires_at)
